//! Expands `#[offloop::task]`.
//!
//! A task `fn name(…)` becomes a constant `name` of a type of its own. The type dereferences to the function pointer, so
//! `name(…)` still calls the function. It has the method `with`, which returns a call for an executor. A static in the
//! slice `TASKS`, which the linker collects, lets a worker find the task by its name.
//!
//! The expansion of a task `total`:
//!
//! ```text
//! struct __offloop_task_total { … }
//! const fn offloop_task_total() -> __offloop_task_total { … }
//! const total: __offloop_task_total = offloop_task_total();
//! const _: () = {
//!     fn total(…) { … }                       // as the user wrote it
//!     impl __offloop_task_total { fn with(…) }
//!     impl Deref, Debug, TaskFn for __offloop_task_total
//! };
//! ```
//!
//! # Hygiene
//!
//! The names of items are not hygienic on stable: what stands beside the user's tokens is visible to them. So nothing
//! with a name does. The block holds the user's function under its own name, and `impl`s, which have no names. Items that
//! need a name are in methods whose bodies have no tokens of the user's, such as the static, or begin with
//! `offloop_task_` or `__offloop_task_`. Types of the signature that are used again are resolved in the block, so they
//! mean what they mean in the function.
//!
//! The other generated tokens have the span `mixed_site`. It resolves items as the span of the call does, but marks the
//! tokens as the macro's, for which lints are silent. So no `#[allow]` is needed, which a crate may forbid.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::visit_mut::VisitMut;
use syn::{
    Attribute, Error, FnArg, GenericArgument, GenericParam, Ident, ItemFn, Lifetime, LitInt, LitStr, Meta,
    Path, PathArguments, Result, ReturnType, Signature, Token, Type,
};

/// The largest number of arguments. Serde encodes longer tuples as little.
const MOST_ARGUMENTS: usize = 16;

/// Expands the attribute on `item`. Returns an error at the token that is wrong.
pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options: Options = syn::parse2(options)?;
    let function: ItemFn = syn::parse2(item).map_err(|error| {
        Error::new(error.span(), "`#[offloop::task]` applies to a free function with a body")
    })?;
    check(&function.sig)?;
    let arguments = arguments(&function.sig)?;
    Ok(generate(&options, function, &arguments))
}

/// The longest name of a task, in bytes. Names travel with each call that goes to another machine.
const LONGEST_NAME: usize = 200;

/// The options in the parentheses of the attribute. Each may be given once, in any order.
struct Options {
    /// The path of the crate `offloop`: the value of `crate = …`, else `::offloop`.
    krate: Path,
    /// The value of `name = …`.
    name: Option<LitStr>,
    /// The value of `version = …`.
    version: Option<u32>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut krate, mut name, mut version) = (None, None, None);
        while !input.is_empty() {
            let option = Ident::parse_any(input)?;
            let value = option.to_string();
            let is_new = match value.as_str() {
                "crate" => krate.is_none(),
                "name" => name.is_none(),
                "version" => version.is_none(),
                _ => false,
            };
            if !is_new || !input.peek(Token![=]) {
                return Err(wrong_option(option.span()));
            }
            input.parse::<Token![=]>()?;
            match value.as_str() {
                "crate" => krate = Some(parse_crate(input)?),
                "name" => name = Some(parse_name(input)?),
                _ => version = Some(parse_version(input)?),
            }
            if !input.is_empty() && input.parse::<Option<Token![,]>>()?.is_none() {
                return Err(wrong_option(input.span()));
            }
        }
        Ok(Self { krate: krate.unwrap_or_else(|| syn::parse_quote!(::offloop)), name, version })
    }
}

/// Returns the error for an option that does not exist, is given twice or has no value.
fn wrong_option(span: Span) -> Error {
    Error::new(
        span,
        "`#[offloop::task]` has three options, each at most once: `name = \"…\"` and `version = 2`, by which other \
         programs call the task, and `crate = path`, where the crate `offloop` is found here",
    )
}

fn parse_crate(input: ParseStream<'_>) -> Result<Path> {
    let span = input.span();
    let path = if input.peek(LitStr) {
        input.parse::<LitStr>()?.parse_with(Path::parse_mod_style)
    } else {
        input.call(Path::parse_mod_style)
    };
    path.map_err(|_| Error::new(span, "the path of the crate `offloop` is expected here: `crate = path`"))
}

fn parse_name(input: ParseStream<'_>) -> Result<LitStr> {
    let wrong = |span| {
        Error::new(
            span,
            format!(
                "a task's name is a text of 1 to {LONGEST_NAME} bytes without spaces and control characters: \
                 `name = \"billing:invoice\"`"
            ),
        )
    };
    let span = input.span();
    let name: LitStr = input.parse().map_err(|_| wrong(span))?;
    let text = name.value();
    let is_right = (1..=LONGEST_NAME).contains(&text.len())
        && !text.chars().any(|it| it.is_whitespace() || it.is_control());
    if is_right { Ok(name) } else { Err(wrong(span)) }
}

fn parse_version(input: ParseStream<'_>) -> Result<u32> {
    let span = input.span();
    let version = input.parse::<LitInt>().and_then(|version| version.base10_parse::<u32>());
    version.ok().filter(|version| *version > 0).ok_or_else(|| {
        Error::new(span, "a task's version is a whole number from 1 to 4294967295: `version = 2`")
    })
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
        match parameter {
            GenericParam::Lifetime(it) if it.bounds.is_empty() => {}
            GenericParam::Lifetime(it) => return Err(bounded_lifetime(&it.bounds)),
            GenericParam::Type(_) | GenericParam::Const(_) => {
                return Err(Error::new_spanned(
                    parameter,
                    "a task cannot be generic: a worker finds it by its name alone; write one task per type",
                ));
            }
        }
    }
    if let Some(bounds) = &signature.generics.where_clause {
        return Err(bounded_lifetime(bounds));
    }
    if let Some(variadic) = &signature.variadic {
        return Err(Error::new_spanned(variadic, "a task has a fixed number of arguments"));
    }
    if let Some(argument) = signature.inputs.iter().nth(MOST_ARGUMENTS) {
        return Err(Error::new_spanned(
            argument,
            format!("a task has at most {MOST_ARGUMENTS} arguments: put some of them into a struct"),
        ));
    }
    let mut result = CheckResult(None);
    result.visit_return_type_mut(&mut signature.output.clone());
    result.0.map_or(Ok(()), Err)
}

/// Returns the error for lifetimes that must outlive each other. The pointer to such a function has not the type that
/// the same function without the bounds has.
fn bounded_lifetime(bounds: impl ToTokens) -> Error {
    Error::new_spanned(
        bounds,
        "a task is not generic, and the lifetimes of its arguments have no bounds: all of them are valid for the \
         whole call; use one lifetime for the arguments that must live equally long",
    )
}

/// Returns the error for `self` and `Self`.
fn method(tokens: impl ToTokens) -> Error {
    Error::new_spanned(tokens, "a task is a free function: pass the value as an argument, and name its type")
}

/// The types of one argument.
struct Argument {
    /// The type as written: part of the type of the function pointer.
    written: Type,
    /// The same type with the lifetime of the call in each borrow: part of the signature of `with`.
    bound: Type,
}

/// Returns the arguments of the function. Returns an error for `self`, for `cfg`, for `&mut` and for `impl Trait`.
fn arguments(signature: &Signature) -> Result<Vec<Argument>> {
    let lifetimes: Vec<_> = signature.generics.lifetimes().map(|it| it.lifetime.clone()).collect();
    let mut arguments = Vec::new();
    for input in &signature.inputs {
        let FnArg::Typed(input) = input else { return Err(method(input)) };
        if let Some(cfg) = input.attrs.iter().find(|it| is_cfg(it)) {
            return Err(Error::new_spanned(
                cfg,
                "an argument of a task cannot depend on `cfg`: write one function for each configuration, \
                 and put `#[cfg(…)]` on the functions",
            ));
        }
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

    fn visit_ident_mut(&mut self, ident: &mut Ident) {
        if ident == "Self" {
            self.error = Some(method(ident));
        }
    }
}

/// Looks for what a result cannot have.
struct CheckResult(Option<Error>);

impl CheckResult {
    fn borrows(&mut self, tokens: impl ToTokens) {
        self.0 = Some(Error::new_spanned(
            tokens,
            "a task's result comes from another process, so it must own its data: return a `String` or a `Vec`, \
             for instance",
        ));
    }
}

impl VisitMut for CheckResult {
    fn visit_type_reference_mut(&mut self, reference: &mut syn::TypeReference) {
        self.borrows(reference);
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if lifetime.ident != "static" {
            self.borrows(lifetime);
        }
    }

    fn visit_type_impl_trait_mut(&mut self, impl_trait: &mut syn::TypeImplTrait) {
        self.0 = Some(Error::new_spanned(
            impl_trait,
            "a task's result is decoded by the caller, who must know its type: name the type",
        ));
    }

    fn visit_type_never_mut(&mut self, never: &mut syn::TypeNever) {
        self.0 = Some(Error::new_spanned(
            never,
            "a task returns: a result of `()` does for one that is ended from outside",
        ));
    }

    fn visit_ident_mut(&mut self, ident: &mut Ident) {
        if ident == "Self" {
            self.0 = Some(method(ident));
        }
    }
}

/// How an argument is encoded: bytes as one block instead of byte by byte, and a `Cow` so that it borrows what has arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// A type of no known form, which encodes itself.
    Itself,
    /// `&[u8]`, within `Bytes`.
    Slice,
    /// A type that is written as `Vec<u8>`, within `OwnedBytes`. Only the compiler knows whether it is the `Vec` of the
    /// standard library.
    Vec,
    /// `Cow<'_, str>`, within `Text`.
    Text,
    /// `Cow<'_, [u8]>`, within `CowBytes`.
    CowBytes,
}

impl Encoding {
    fn of(ty: &Type) -> Self {
        let is_u8 = |ty: &Type| matches!(ty, Type::Path(path) if path.path.is_ident("u8"));
        match ty {
            Type::Group(group) => Self::of(&group.elem),
            Type::Paren(paren) => Self::of(&paren.elem),
            Type::Reference(reference) => match &*reference.elem {
                Type::Slice(slice) if is_u8(&slice.elem) => Self::Slice,
                _ => Self::Itself,
            },
            Type::Path(path) if path.qself.is_none() => {
                let Some(last) = path.path.segments.last() else { return Self::Itself };
                let PathArguments::AngleBracketed(arguments) = &last.arguments else { return Self::Itself };
                match arguments.args.iter().collect::<Vec<_>>()[..] {
                    [GenericArgument::Type(ty)] if last.ident == "Vec" && is_u8(ty) => Self::Vec,
                    // A `Cow<'static, _>` does not borrow.
                    [GenericArgument::Lifetime(lifetime), GenericArgument::Type(ty)]
                        if last.ident == "Cow" && lifetime.ident == "call" =>
                    {
                        match ty {
                            Type::Path(path) if path.path.is_ident("str") => Self::Text,
                            Type::Slice(slice) if is_u8(&slice.elem) => Self::CowBytes,
                            _ => Self::Itself,
                        }
                    }
                    _ => Self::Itself,
                }
            }
            _ => Self::Itself,
        }
    }
}

fn is_cfg(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr")
}

/// Returns `#[allow(…)]` for the lints that the user's function allows or expects. The types of its signature are used
/// again outside of it.
fn allowed(attribute: &Attribute) -> Option<TokenStream> {
    let Meta::List(list) = &attribute.meta else { return None };
    let lints = &list.tokens;
    (list.path.is_ident("allow") || list.path.is_ident("expect")).then(|| quote!(#[allow(#lints)]))
}

/// The arguments as they are encoded: one tuple, in which bytes are wrapped.
struct Sent {
    /// The names of the arguments in the generated functions.
    names: Vec<Ident>,
    /// The type of the tuple.
    tuple: TokenStream,
    /// The tuple, made of the arguments.
    packed: TokenStream,
    /// The arguments, taken from the elements of the tuple, which have the same names.
    unpacked: Vec<TokenStream>,
}

/// Returns how the arguments are sent. The compiler's errors about the type of the tuple point to `parentheses`.
fn sent(krate: &Path, arguments: &[Argument], site: Span, parentheses: Span) -> Sent {
    let names: Vec<_> = (0..arguments.len()).map(|at| format_ident!("arg{at}", span = site)).collect();
    let (mut types, mut values, mut unpacked) = (Vec::new(), Vec::new(), Vec::new());
    for (Argument { bound, .. }, name) in arguments.iter().zip(&names) {
        let (ty, value, inner) = match Encoding::of(bound) {
            Encoding::Itself => (bound.to_token_stream(), name.to_token_stream(), name.to_token_stream()),
            Encoding::Slice => (
                quote_spanned!(site=> #krate::__private::Bytes<'call>),
                quote_spanned!(site=> #krate::__private::Bytes(#name)),
                quote_spanned!(site=> #name.0),
            ),
            Encoding::Text => (
                quote_spanned!(site=> #krate::__private::Text<'call>),
                quote_spanned!(site=> #krate::__private::Text(#name)),
                quote_spanned!(site=> #name.0),
            ),
            Encoding::CowBytes => (
                quote_spanned!(site=> #krate::__private::CowBytes<'call>),
                quote_spanned!(site=> #krate::__private::CowBytes(#name)),
                quote_spanned!(site=> #name.0),
            ),
            Encoding::Vec => (
                quote_spanned!(site=> #krate::__private::OwnedBytes<#bound>),
                quote_spanned!(site=> #krate::__private::OwnedBytes(#name)),
                quote_spanned!(site=> #name.0),
            ),
        };
        types.push(ty);
        values.push(value);
        unpacked.push(inner);
    }
    Sent {
        names,
        tuple: quote_spanned!(parentheses=> (#(#types,)*)),
        packed: quote_spanned!(site=> (#(#values,)*)),
        unpacked,
    }
}

/// Returns the text of tokens, which depends neither on the compiler's version nor on how the source is formatted: there
/// is a space only between two words. It is a part of the task's signature, which programs of other builds compare.
fn text_of(tokens: TokenStream) -> String {
    let mut text = String::new();
    write_text(tokens, &mut text);
    text
}

fn write_text(tokens: TokenStream, text: &mut String) {
    let is_part_of_word = |it: char| it.is_alphanumeric() || it == '_';
    let mut put = |part: &str| {
        if text.ends_with(is_part_of_word) && part.starts_with(is_part_of_word) {
            text.push(' ');
        }
        text.push_str(part);
    };
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                put(open);
                put(&text_of(group.stream()));
                put(close);
            }
            other => put(&other.to_string()),
        }
    }
}

/// Returns the items that take the place of the function.
///
/// The function's attributes are divided. Those for its users, documentation and `deprecated`, go to the constant. `cfg`
/// goes to all items. The others stay with the function.
fn generate(options: &Options, mut function: ItemFn, arguments: &[Argument]) -> TokenStream {
    let krate = &options.krate;
    let name = function.sig.ident.clone();
    let site = Span::mixed_site().located_at(name.span());
    let mut constant = name.clone();
    constant.set_span(site);
    let task = format_ident!("__offloop_task_{}", name, span = site);
    // With the user's span, for which lints are not silent: if the constant is unused, so is this function. The compiler
    // does not report names that begin with an underscore.
    let reported = format_ident!("offloop_task_{}", name);
    let visible = Ident::new(&task.to_string(), name.span());
    let make = quote_spanned!(name.span()=> const fn #reported() -> #visible { #visible { _private: () } });
    let path = name.unraw().to_string();
    let path_name = || quote_spanned!(site=> ::core::concat!(::core::module_path!(), "::", #path));
    let task_name = options.name.as_ref().map_or_else(path_name, ToTokens::to_token_stream);
    let fixed = options.name.as_ref().map(|_| quote_spanned!(site=> .with_fixed_name()));
    let version = options.version.map(|version| quote_spanned!(site=> .with_version(#version)));

    let visibility = std::mem::replace(&mut function.vis, syn::Visibility::Inherited);
    let is_for_users = |it: &Attribute| it.path().is_ident("doc") || it.path().is_ident("deprecated");
    let (for_users, rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut function.attrs).into_iter().partition(is_for_users);
    let (cfgs, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_cfg);
    let allows: Vec<_> = rest.iter().filter_map(allowed).collect();
    function.attrs = rest;

    let lifetimes = &function.sig.generics.params;
    let abi = &function.sig.abi;
    let output = match &function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    };
    let Sent { names, tuple, packed, unpacked } =
        sent(krate, arguments, site, function.sig.paren_token.span.join());
    let written: Vec<_> = arguments.iter().map(|it| &it.written).collect();
    let bound = arguments.iter().map(|it| &it.bound);
    let pointer = quote_spanned!(site=> for<#lifetimes> #abi fn(#(#written),*) -> #output);
    let signature = text_of(quote!(fn(#(#written),*) -> #output));

    quote_spanned! {site=>
        #(#cfgs)*
        #[doc(hidden)]
        #[derive(::core::clone::Clone, ::core::marker::Copy)]
        #visibility struct #task {
            _private: (),
        }

        #(#cfgs)*
        #(#allows)*
        #[doc(hidden)]
        #make

        #(#cfgs)*
        #(#for_users)*
        #visibility const #constant: #task = #reported();

        #(#cfgs)*
        #(#allows)*
        const _: () = {
            // The arguments are decoded for this one call, so taking them by value costs nothing.
            #[allow(clippy::needless_pass_by_value)]
            #function

            impl #task {
                /// Returns a call of this task with these arguments, for an executor.
                #[must_use = "a call does nothing until an executor is given it"]
                #visibility fn with<'call>(&self, #(#names: #bound),*) -> #krate::Call<'call, #output> {
                    #krate::__private::call::<Self>(#packed)
                }
            }

            impl #krate::__private::TaskFn for #task {
                type Arguments<'call> = #tuple;
                type Output = #output;

                fn task() -> &'static #krate::__private::Task {
                    #[#krate::__private::linkme::distributed_slice(#krate::__private::TASKS)]
                    #[linkme(crate = #krate::__private::linkme)]
                    static TASK: #krate::__private::Task = #krate::__private::Task::of::<#task>(
                        #task_name,
                        #signature,
                        (::core::file!(), ::core::line!(), ::core::column!()),
                    )#fixed #version;
                    &TASK
                }

                fn apply<'call>((#(#names,)*): Self::Arguments<'call>) -> #output {
                    #name(#(#unpacked),*)
                }
            }

            impl ::core::ops::Deref for #task {
                type Target = #pointer;

                fn deref(&self) -> &Self::Target {
                    const { &(#name as #pointer) }
                }
            }

            impl ::core::fmt::Debug for #task {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    ::core::fmt::Debug::fmt(<Self as #krate::__private::TaskFn>::task(), f)
                }
            }
        };
    }
}
