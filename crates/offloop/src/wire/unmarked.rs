//! A hint for `f.with(…)` on a function without `#[offloop::task]`.
//!
//! The compiler's error for a method that it cannot find has no place for a note. But it names traits that have such a
//! method and are not imported, and prints the line of the method. So the name of this trait and that line are the advice.

/// Not public API: the functions that are not tasks, for which the compiler looks for `with`.
pub trait MarkTheFunctionWithOffloopTask<Arguments, Output> {
    #[rustfmt::skip]
    #[doc(hidden)]
    fn with(&self) where Self: Marked { } // mark the function `#[offloop::task]`; in its own body: `self::f.with(…)`
}

/// Not public API: implemented by no type, so that `with` cannot be called.
pub trait Marked {}

macro_rules! functions {
    ($($first:ident $($rest:ident)*)?) => {
        impl<F, R $(, $first $(, $rest)*)?> MarkTheFunctionWithOffloopTask<($($first, $($rest),*)?), R> for F
        where
            F: Fn($($first $(, $rest)*)?) -> R
        {
        }

        $(functions!($($rest)*);)?
    };
}

functions!(A0 A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13 A14 A15);
