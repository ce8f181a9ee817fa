//! The attribute `#[offloop::task]`. Use it through the crate `offloop`, which documents it.

use proc_macro::TokenStream;

mod task;

/// Marks a function as a task. It can be called as before, and gains `with(args…)`, which makes a call for a process
/// pool.
///
/// It is documented in the crate `offloop`.
#[proc_macro_attribute]
pub fn task(attributes: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(attributes.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
