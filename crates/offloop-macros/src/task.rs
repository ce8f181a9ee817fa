//! Expands `#[offloop::task]`.
//!
//! A task `fn name(…)` becomes a constant `name` of a zero-sized type, also called `name`. The type dereferences to the
//! function pointer, so `name(…)` still calls the function. The type has the method `with`, which returns a call for an
//! executor. A static in the slice `TASKS`, which the linker collects, lets a worker find the task by its name.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::spanned::Spanned;
use syn::visit_mut::VisitMut;
use syn::{
    Attribute, Error, FnArg, GenericArgument, GenericParam, ItemFn, Lifetime, PathArguments, Result,
    ReturnType, Signature, Type,
};

/// Expands the attribute on `item`. Returns an error at the token that is wrong.
pub(crate) fn expand(attributes: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !attributes.is_empty() {
        return Err(Error::new_spanned(attributes, "`#[offloop::task]` takes no arguments"));
    }
    let function: ItemFn = syn::parse2(item).map_err(|error| {
        Error::new(error.span(), "`#[offloop::task]` applies to a free function with a body")
    })?;
    check(&function.sig)?;
    let arguments = arguments(&function.sig)?;
    Ok(generate(function, &arguments))
}

/// Rejects signatures that cannot work in another process, with advice.
fn check(signature: &Signature) -> Result<()> {
    if let Some(token) = signature.asyncness {
        return Err(Error::new_spanned(
            token,
            "a task runs off the event loop, where nothing would poll an async fn: \
             await it on the loop, or make the task a plain `fn` that blocks",
        ));
    }
    if let Some(token) = signature.unsafety {
        return Err(Error::new_spanned(
            token,
            "a task must be safe to call: wrap the unsafe call in a safe `fn`",
        ));
    }
    for parameter in &signature.generics.params {
        if !matches!(parameter, GenericParam::Lifetime(_)) {
            return Err(Error::new_spanned(
                parameter,
                "a task cannot be generic: a worker finds it by its name alone; write one task per type",
            ));
        }
    }
    let mut borrows = Borrows(None);
    borrows.visit_return_type_mut(&mut signature.output.clone());
    if let Some(span) = borrows.0 {
        return Err(Error::new(
            span,
            "a task's result comes from another process, so it must own its data: return a `String` or a `Vec`, \
             for instance",
        ));
    }
    Ok(())
}

/// The types of one argument.
struct Argument {
    /// The type as written: part of the type of the function pointer.
    written: Type,
    /// The same type with the lifetime of the call in each borrow: part of the signature of `with`.
    bound: Type,
}

/// Returns the arguments of the function. Returns an error for `self`, for `&mut` and for `impl Trait`.
fn arguments(signature: &Signature) -> Result<Vec<Argument>> {
    let lifetimes: Vec<_> = signature.generics.lifetimes().map(|it| it.lifetime.clone()).collect();
    let mut arguments = Vec::new();
    for input in &signature.inputs {
        let FnArg::Typed(input) = input else {
            return Err(Error::new_spanned(
                input,
                "a task is a free function: pass the value as an argument",
            ));
        };
        let mut bind = Bind { lifetimes: &lifetimes, error: None };
        let mut bound = (*input.ty).clone();
        bind.visit_type_mut(&mut bound);
        if let Some(error) = bind.error {
            return Err(error);
        }
        arguments.push(Argument { written: (*input.ty).clone(), bound });
    }
    Ok(arguments)
}

/// Returns the lifetime of the call, for which its borrowed arguments are valid.
fn call_lifetime(span: Span) -> Lifetime {
    Lifetime::new("'call", span)
}

/// Gives every borrow in a type the lifetime of the call.
struct Bind<'a> {
    /// The lifetimes that the function declares. They are replaced; others, such as `'static`, stay.
    lifetimes: &'a [Lifetime],
    /// The last error, if the type cannot be sent to another process.
    error: Option<Error>,
}

impl VisitMut for Bind<'_> {
    fn visit_type_reference_mut(&mut self, reference: &mut syn::TypeReference) {
        if let Some(token) = reference.mutability {
            self.error = Some(Error::new_spanned(
                token,
                "a task's arguments go to another process, from where a `&mut` cannot come back: \
                 take the value and return the new one",
            ));
        }
        if reference.lifetime.is_none() {
            reference.lifetime = Some(call_lifetime(reference.and_token.span));
        }
        syn::visit_mut::visit_type_reference_mut(self, reference);
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if lifetime.ident == "_" || self.lifetimes.contains(lifetime) {
            *lifetime = call_lifetime(lifetime.span());
        }
    }

    fn visit_type_impl_trait_mut(&mut self, impl_trait: &mut syn::TypeImplTrait) {
        self.error = Some(Error::new_spanned(
            impl_trait,
            "a task cannot be generic: a worker finds it by its name alone; name the type",
        ));
    }
}

/// Finds the last borrow in a return type.
struct Borrows(Option<Span>);

impl VisitMut for Borrows {
    fn visit_type_reference_mut(&mut self, reference: &mut syn::TypeReference) {
        self.0 = Some(reference.span());
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if lifetime.ident != "static" {
            self.0 = Some(lifetime.span());
        }
    }

    fn visit_type_impl_trait_mut(&mut self, impl_trait: &mut syn::TypeImplTrait) {
        self.0 = Some(impl_trait.span());
    }
}

/// A wrapper in which an argument is sent.
struct Wrapper {
    name: TokenStream,
    /// It has the lifetime of the call.
    borrows: bool,
}

/// Returns the wrapper for a type of bytes, which encodes them as one block instead of byte by byte, or for a `Cow`, which
/// then borrows what has arrived. Returns `None` for other types.
fn wrapper(ty: &Type) -> Option<Wrapper> {
    let is_u8 = |ty: &Type| matches!(ty, Type::Path(path) if path.path.is_ident("u8"));
    let is_bytes = |ty: &Type| matches!(ty, Type::Slice(slice) if is_u8(&slice.elem));
    let is_text = |ty: &Type| matches!(ty, Type::Path(path) if path.path.is_ident("str"));
    let borrowing = |name| Some(Wrapper { name, borrows: true });
    match ty {
        Type::Reference(reference) if is_bytes(&reference.elem) => {
            borrowing(quote!(::offloop::__private::Bytes))
        }
        Type::Path(path) if path.qself.is_none() => {
            let last = path.path.segments.last()?;
            let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
            let arguments: Vec<_> = arguments.args.iter().collect();
            match arguments[..] {
                [GenericArgument::Type(ty)] if last.ident == "Vec" && is_u8(ty) => {
                    Some(Wrapper { name: quote!(::offloop::__private::ByteBuf), borrows: false })
                }
                // A `Cow<'static, _>` does not borrow.
                [GenericArgument::Lifetime(lifetime), GenericArgument::Type(ty)]
                    if last.ident == "Cow" && lifetime.ident == "call" =>
                {
                    match ty {
                        ty if is_text(ty) => borrowing(quote!(::offloop::__private::Text)),
                        ty if is_bytes(ty) => borrowing(quote!(::offloop::__private::CowBytes)),
                        _ => None,
                    }
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn is_cfg(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr")
}

/// Returns the items that take the place of the function.
///
/// The function's attributes are divided. Documentation goes to the constant and `cfg` to all items. `must_use` is
/// dropped, since it has no effect on calls through a pointer. The others stay with the function.
fn generate(mut function: ItemFn, arguments: &[Argument]) -> TokenStream {
    let name = function.sig.ident.clone();
    let body = format_ident!("{name}__body");
    let visibility = std::mem::replace(&mut function.vis, syn::Visibility::Inherited);
    let (docs, rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut function.attrs).into_iter().partition(|it| it.path().is_ident("doc"));
    let cfgs: Vec<_> = rest.iter().filter(|it| is_cfg(it)).cloned().collect();
    function.attrs = rest.into_iter().filter(|it| !is_cfg(it) && !it.path().is_ident("must_use")).collect();
    function.sig.ident = body.clone();

    let lifetimes = &function.sig.generics.params;
    let output = match &function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    };
    let written: Vec<_> = arguments.iter().map(|it| &it.written).collect();
    let bound: Vec<_> = arguments.iter().map(|it| &it.bound).collect();
    let names: Vec<_> = (0..arguments.len()).map(|at| format_ident!("arg{at}")).collect();
    // The arguments are encoded as one tuple, in which some are wrapped.
    let wrappers: Vec<_> = bound.iter().map(|ty| wrapper(ty)).collect();
    let sent = bound.iter().zip(&wrappers).map(|(ty, wrapper)| match wrapper {
        Some(Wrapper { name, borrows: true }) => quote!(#name<'call>),
        Some(Wrapper { name, borrows: false }) => name.clone(),
        None => ty.to_token_stream(),
    });
    let packed = names.iter().zip(&wrappers).map(|(name, wrapper)| {
        if let Some(Wrapper { name: wrapper, .. }) = wrapper {
            quote!(#wrapper(#name))
        } else {
            quote!(#name)
        }
    });
    let unpacked: Vec<_> = names
        .iter()
        .zip(&wrappers)
        .map(|(name, wrapper)| if wrapper.is_some() { quote!(#name.0) } else { quote!(#name) })
        .collect();
    let pointer = quote!(for<#lifetimes> fn(#(#written),*) -> #output);
    let signature = format!("fn({}) -> {output}", quote!(#(#written),*));

    quote! {
        #(#cfgs)*
        #[doc(hidden)]
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug)]
        #visibility struct #name {
            _private: (),
        }

        #(#cfgs)*
        #(#docs)*
        #[allow(non_upper_case_globals)]
        #visibility const #name: #name = #name { _private: () };

        #(#cfgs)*
        const _: () = {
            // The arguments are decoded for this one call, so taking them by value costs nothing.
            #[allow(non_snake_case, clippy::needless_pass_by_value)]
            #function

            impl ::core::ops::Deref for #name {
                type Target = #pointer;

                fn deref(&self) -> &Self::Target {
                    static BODY: #pointer = #body;
                    &BODY
                }
            }

            type Sent<'call> = (#(#sent,)* ::core::marker::PhantomData<&'call ()>,);

            impl #name {
                /// Returns a call of this task with these arguments, for an executor.
                #[must_use = "a call does nothing until an executor is given it"]
                #[allow(clippy::too_many_arguments)]
                pub fn with<'call>(&self, #(#names: #bound),*) -> ::offloop::Call<'call, #output> {
                    ::offloop::__private::call::<Sent<'call>, #output>(
                        &TASK,
                        (#(#packed,)* ::core::marker::PhantomData,),
                        |(#(#names,)* _)| #body(#(#unpacked),*),
                    )
                }
            }

            fn run(input: ::offloop::__private::Incoming<'_>) -> ::offloop::__private::EncodedResult {
                fn decoded<'call>(
                    input: ::offloop::__private::Incoming<'call>,
                ) -> ::offloop::__private::EncodedResult {
                    ::offloop::__private::run::<Sent<'call>, #output>(input, |(#(#names,)* _)| {
                        #body(#(#unpacked),*)
                    })
                }
                decoded(input)
            }

            #[::offloop::__private::linkme::distributed_slice(::offloop::__private::TASKS)]
            #[linkme(crate = ::offloop::__private::linkme)]
            static TASK: ::offloop::__private::Task = ::offloop::__private::Task::new(
                ::core::concat!(::core::module_path!(), "::", ::core::stringify!(#name)),
                #signature,
                (::core::file!(), ::core::line!(), ::core::column!()),
                ::core::any::TypeId::of::<#name>,
                run,
            );
        };
    }
}
