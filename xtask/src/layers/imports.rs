//! Reads the imports of a crate from its source files, and finds the file that defines each imported item.
//!
//! An import is a `use`, or a path of several segments anywhere in the code or in the tokens of a macro. Code that is
//! compiled for tests only is left out.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, Token, UseTree};

/// The text of each source file, by its path below `src`.
pub(crate) type Sources = BTreeMap<String, String>;

/// The segments of a path. That of a module begins below the crate's root.
type Path = Vec<String>;

/// A place in a source file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location {
    pub(crate) file: String,
    pub(crate) line: usize,
}

/// An item of the crate that another of its files names.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub(crate) at: Location,
    /// The path as it is written.
    pub(crate) path: String,
    /// The path at which the item is defined.
    pub(crate) item: String,
    /// The file that defines the item.
    pub(crate) target: String,
    /// The files whose re-exports lead from the written path to the definition.
    pub(crate) through: Vec<String>,
    /// Whether this is a `pub use` of an item that a module below this file defines.
    pub(crate) is_reexport_of_child: bool,
}

/// The parts of a crate that the layers are about.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    /// Every import of one file from another, in the order of files and lines.
    pub(crate) all: Vec<Import>,
    /// Each `feature = "process"` in an attribute or a macro.
    pub(crate) process_features: Vec<Location>,
    /// The items that are neither modules nor imports.
    pub(crate) definitions: Vec<Location>,
    /// Each call of `thread::spawn`, and each method call `spawn` in a file that names `thread::Builder`.
    pub(crate) thread_starts: Vec<Location>,
    /// The files that are compiled for tests only.
    pub(crate) test_files: BTreeSet<String>,
}

/// Reads all files. Fails with the location of the first syntax error.
pub(crate) fn read(sources: &Sources) -> Result<Imports, String> {
    let mut modules = Modules::default();
    let mut found = Found::default();
    for (file, text) in sources {
        let syntax = syn::parse_file(text)
            .map_err(|error| format!("{file}:{}: {error}", error.span().start().line))?;
        let module = module_of(file);
        modules.0.entry(module.clone()).or_default().file.clone_from(file);
        Reader { file, module, modules: &mut modules, found: &mut found }.visit_file(&syntax);
    }

    let is_for_tests = |module: &Path| found.test_modules.iter().any(|test| module.starts_with(test));
    let test_files: BTreeSet<_> =
        sources.keys().filter(|file| is_for_tests(&module_of(file))).cloned().collect();
    let mut all: Vec<_> = found
        .references
        .iter()
        .filter(|reference| !test_files.contains(&reference.at.file))
        .filter_map(|reference| modules.resolve(reference))
        .collect();
    all.sort_by(|a, b| a.at.cmp(&b.at));
    let outside_tests = |mut locations: Vec<Location>| {
        locations.retain(|location| !test_files.contains(&location.file));
        locations
    };
    let mut thread_starts = found.thread_spawns;
    thread_starts.extend(found.spawn_calls.into_iter().filter(|at| found.thread_builders.contains(&at.file)));
    Ok(Imports {
        all,
        process_features: outside_tests(found.process_features),
        definitions: outside_tests(found.definitions),
        thread_starts: outside_tests(thread_starts),
        test_files,
    })
}

/// Returns the module that a file is: `core/cell.rs` is `core::cell`, `core/mod.rs` is `core`, `lib.rs` is the root.
fn module_of(file: &str) -> Path {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if stem == "lib" { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// The names of each module, inline modules included.
#[derive(Default)]
struct Modules(BTreeMap<Path, Names>);

/// The names that a module declares.
#[derive(Default)]
struct Names {
    file: String,
    modules: BTreeSet<String>,
    items: BTreeSet<String>,
    /// The path behind each name that a `use` brings.
    uses: BTreeMap<String, Path>,
    globs: Vec<Path>,
}

/// A path in the code, not resolved yet.
struct Reference {
    at: Location,
    module: Path,
    path: Path,
    is_reexport: bool,
}

#[derive(Default)]
struct Found {
    references: Vec<Reference>,
    process_features: Vec<Location>,
    definitions: Vec<Location>,
    /// The paths that end with `thread::spawn`.
    thread_spawns: Vec<Location>,
    /// The calls of methods with the name `spawn`.
    spawn_calls: Vec<Location>,
    /// The files that name `thread::Builder`.
    thread_builders: BTreeSet<String>,
    test_modules: Vec<Path>,
}

/// Chains of re-exports that are longer than this are taken for endless.
const MAX_REEXPORTS: usize = 20;

impl Modules {
    /// Returns the import that a reference is, if it leads to another file of the crate.
    fn resolve(&self, reference: &Reference) -> Option<Import> {
        let Reference { at, module, path, is_reexport } = reference;
        let mut through = Vec::new();
        let (definer, name) = self.definer(&self.path_from_root(module, path)?, &mut through);
        let target = self.0.get(&definer)?.file.clone();
        through.retain(|file| *file != at.file);
        (target != at.file && !target.is_empty()).then(|| Import {
            at: at.clone(),
            path: path.join("::"),
            item: definer.iter().cloned().chain(name).collect::<Vec<_>>().join("::"),
            is_reexport_of_child: *is_reexport && definer.starts_with(&module_of(&at.file)),
            target,
            through,
        })
    }

    /// Returns a path that a module uses as a path from the root, or `None` if it leads to another crate.
    fn path_from_root(&self, module: &Path, path: &[String]) -> Option<Path> {
        let (first, after_first) = path.split_first()?;
        let (mut root, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), after_first),
            "self" => (module.clone(), after_first),
            "super" => (module.clone(), path),
            name if self.0.get(module)?.declares(name) => (module.clone(), path),
            _ => return None,
        };
        while rest.first().is_some_and(|segment| segment == "super") {
            root.pop();
            rest = &rest[1..];
        }
        root.extend_from_slice(rest);
        Some(root)
    }

    /// Returns the module that defines the item at a path from the root, and the item's name unless the path leads to
    /// the module itself. Appends the files whose re-exports it follows.
    fn definer(&self, path: &[String], through: &mut Vec<String>) -> (Path, Option<String>) {
        let mut module = Path::new();
        for (index, segment) in path.iter().enumerate() {
            let Some(names) = self.0.get(&module) else { break };
            if names.modules.contains(segment) {
                module.push(segment.clone());
                continue;
            }
            let rest = &path[index + 1..];
            let next = if names.items.contains(segment) || through.len() == MAX_REEXPORTS {
                None
            } else if let Some(used) = names.uses.get(segment) {
                self.path_from_root(&module, &[used, rest].concat())
            } else {
                names.globs.iter().find_map(|glob| {
                    let (target, _) = self.definer(&self.path_from_root(&module, glob)?, &mut Vec::new());
                    let declares = target != module && self.0.get(&target)?.declares(segment);
                    declares.then(|| [&target, &path[index..]].concat())
                })
            };
            return match next {
                Some(next) => {
                    through.push(names.file.clone());
                    self.definer(&next, through)
                }
                // An item of this module, or an item of another crate that this module re-exports.
                None => (module, Some(segment.clone())),
            };
        }
        (module, None)
    }
}

impl Names {
    fn declares(&self, name: &str) -> bool {
        self.modules.contains(name) || self.items.contains(name) || self.uses.contains_key(name)
    }
}

/// Collects the names and the references of one file.
struct Reader<'a> {
    file: &'a str,
    /// The module that is being read: that of the file, or an inline one.
    module: Path,
    modules: &'a mut Modules,
    found: &'a mut Found,
}

impl Reader<'_> {
    fn names(&mut self) -> &mut Names {
        self.modules.0.get_mut(&self.module).expect("a module is entered before its items are read")
    }

    fn location(&self, span: Span) -> Location {
        Location { file: self.file.to_owned(), line: span.start().line }
    }

    fn refer(&mut self, span: Span, path: Path, is_reexport: bool) {
        let (at, module) = (self.location(span), self.module.clone());
        if path.ends_with(&["thread".to_owned(), "spawn".to_owned()]) {
            self.found.thread_spawns.push(at.clone());
        }
        if path.windows(2).any(|pair| pair == ["thread", "Builder"]) {
            self.found.thread_builders.insert(at.file.clone());
        }
        self.found.references.push(Reference { at, module, path, is_reexport });
    }

    /// Reads one branch of a `use`; `prefix` is the path before it.
    fn read_use(&mut self, tree: &UseTree, mut prefix: Path, is_reexport: bool) {
        let (name, alias) = match tree {
            UseTree::Path(tree) => {
                prefix.push(tree.ident.to_string());
                return self.read_use(&tree.tree, prefix, is_reexport);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, prefix.clone(), is_reexport);
                }
                return;
            }
            UseTree::Glob(glob) => {
                self.names().globs.push(prefix.clone());
                return self.refer(glob.star_token.spans[0], prefix, is_reexport);
            }
            UseTree::Name(tree) => (&tree.ident, &tree.ident),
            UseTree::Rename(tree) => (&tree.ident, &tree.rename),
        };
        if name != "self" {
            prefix.push(name.to_string());
        }
        let alias =
            if alias == "self" { prefix.last().cloned().unwrap_or_default() } else { alias.to_string() };
        self.names().uses.insert(alias, prefix.clone());
        self.refer(name.span(), prefix, is_reexport);
    }

    /// Reads the paths and the features in tokens that are not parsed.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let is = |index: usize, expected: &str| {
            tokens.get(index).is_some_and(|token| token.to_string() == expected)
        };
        let are_colons = |index: usize| is(index, ":") && is(index + 1, ":");
        let mut index = 0;
        while index < tokens.len() {
            match &tokens[index] {
                TokenTree::Group(group) => self.read_tokens(group.stream()),
                TokenTree::Ident(first) => {
                    let is_continued = index >= 2 && are_colons(index - 2);
                    if first == "feature" && is(index + 1, "=") && is(index + 2, "\"process\"") {
                        self.found.process_features.push(self.location(first.span()));
                    }
                    let mut path = vec![first.to_string()];
                    while let (true, Some(TokenTree::Ident(next))) =
                        (are_colons(index + 1), tokens.get(index + 3))
                    {
                        path.push(next.to_string());
                        index += 3;
                    }
                    if path.len() > 1 && !is_continued {
                        self.refer(first.span(), path, false);
                    }
                }
                _ => {}
            }
            index += 1;
        }
    }

    /// Reads the attributes of an item. Returns whether it is compiled for tests only.
    fn is_for_tests(&mut self, attributes: &[Attribute]) -> bool {
        let is_for_tests = attributes.iter().any(|attribute| {
            attribute.path().is_ident("cfg") && attribute.parse_args().is_ok_and(|meta| requires_tests(&meta))
        });
        if is_for_tests {
            self.visit_attributes(attributes);
        }
        is_for_tests
    }

    fn visit_attributes(&mut self, attributes: &[Attribute]) {
        for attribute in attributes {
            self.visit_attribute(attribute);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = parts_of(item);
        if self.is_for_tests(attributes) {
            if let Item::Mod(module) = item {
                self.found.test_modules.push([&self.module[..], &[module.ident.to_string()]].concat());
            }
            return;
        }
        if !matches!(item, Item::Mod(_) | Item::Use(_)) {
            self.found.definitions.push(self.location(item.span()));
        }
        if let Some(name) = name {
            self.names().items.insert(name.to_string());
            if attributes.iter().any(|attribute| attribute.path().is_ident("macro_export")) {
                let path = [&["crate".to_owned()], &self.module[..], &[name.to_string()]].concat();
                self.modules.0.entry(Path::new()).or_default().uses.insert(name.to_string(), path);
            }
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.visit_attributes(&item.attrs);
        let name = item.ident.to_string();
        self.names().modules.insert(name.clone());
        self.module.push(name);
        // The name of a module is known even if its file is not.
        let names = self.modules.0.entry(self.module.clone()).or_default();
        if let Some((_, items)) = &item.content {
            self.file.clone_into(&mut names.file);
            for item in items {
                self.visit_item(item);
            }
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.visit_attributes(&item.attrs);
        if item.leading_colon.is_none() {
            let is_reexport = !matches!(item.vis, syn::Visibility::Inherited);
            self.read_use(&item.tree, Vec::new(), is_reexport);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() && path.segments.len() > 1 {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.refer(path.segments[0].ident.span(), segments, false);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.method == "spawn" {
            self.found.spawn_calls.push(self.location(call.method.span()));
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.read_tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            if list.path.is_ident("cfg") || list.path.is_ident("cfg_attr") {
                self.read_tokens(list.tokens.clone());
            }
        }
    }

    /// The path of `pub(in path)` is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes: &[Attribute] = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            _ => &[],
        };
        if !self.is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !self.is_for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !self.is_for_tests(&local.attrs) {
            visit::visit_local(self, local);
        }
    }
}

/// Returns the attributes of an item, and its name if it defines something other than a module.
fn parts_of(item: &Item) -> (&[Attribute], Option<&Ident>) {
    match item {
        Item::Const(item) => (&item.attrs, Some(&item.ident)),
        Item::Enum(item) => (&item.attrs, Some(&item.ident)),
        Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
        Item::Impl(item) => (&item.attrs, None),
        Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
        Item::Mod(item) => (&item.attrs, None),
        Item::Static(item) => (&item.attrs, Some(&item.ident)),
        Item::Struct(item) => (&item.attrs, Some(&item.ident)),
        Item::Trait(item) => (&item.attrs, Some(&item.ident)),
        Item::Type(item) => (&item.attrs, Some(&item.ident)),
        Item::Union(item) => (&item.attrs, Some(&item.ident)),
        Item::Use(item) => (&item.attrs, None),
        _ => (&[], None),
    }
}

/// Returns whether the condition of a `cfg` holds in builds for tests, fuzzing or model checking only.
fn requires_tests(condition: &Meta) -> bool {
    let Meta::List(list) = condition else {
        return ["test", "doctest", "fuzzing", "shuttle", "weak_memory"]
            .iter()
            .any(|name| condition.path().is_ident(name));
    };
    let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default();
    if list.path.is_ident("all") {
        parts.iter().any(requires_tests)
    } else {
        list.path.is_ident("any") && !parts.is_empty() && parts.iter().all(requires_tests)
    }
}
