//! The attribute `#[offloop::task]`. Use it as part of the crate `offloop`, which documents it.

use proc_macro::TokenStream;

mod task;

/// Marks a function as a task.
///
/// It can still be called as a function. In addition it has `with(args…)`, which returns a call that a process pool can
/// run. `#[offloop::task(crate = path)]` gives the path of the crate `offloop`, if that is not `::offloop`. The crate
/// `offloop` documents it.
#[proc_macro_attribute]
pub fn task(attributes: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(attributes.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
