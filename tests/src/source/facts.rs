//! What one file says: definitions, functions, imports, and the paths and identifiers that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItem, Item, Meta, Signature, Token, UseTree, Visibility};

/// What one file says.
#[derive(Debug, Default)]
pub struct Facts {
    /// Modules, types, functions, constants and traits.
    pub definitions: Vec<Definition>,
    /// Functions with a body.
    pub functions: Vec<Function>,
    /// What `use` brings into a module, by the name that it has there.
    pub imports: Vec<Import>,
    /// Paths that begin with a crate of the workspace, or with `crate` or `super`.
    pub references: Vec<Reference>,
    /// The paths of the modules that it declares, apart from those of tests.
    pub modules: Vec<Vec<String>>,
    /// Modules that stand in a file of their own.
    pub submodules: Vec<Submodule>,
    /// Identifiers in production code outside of `use`, and how often each stands there.
    pub named: BTreeMap<String, usize>,
    /// All identifiers, wherever they stand.
    pub mentioned: BTreeSet<String>,
    /// Occurrences of `Result<_, String>` in production code.
    pub string_results: Vec<usize>,
    /// Variants of enums in production code that hold one `String` and nothing else.
    pub string_variants: Vec<usize>,
    test_lines: Vec<RangeInclusive<usize>>,
}

/// What kind of thing a definition defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A module.
    Module,
    /// A struct, an enum, a union, a type alias or a trait.
    Type,
    /// A function outside of any type.
    Function,
    /// A function of a type.
    Method,
    /// A function of a trait's implementation.
    TraitMethod,
    /// A constant or a static.
    Constant,
    /// The head of an `impl` block, which names its type without using it.
    ImplHead,
}

/// How far a definition can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In its module.
    Private,
    /// In a part of its crate.
    Restricted,
    /// `pub`.
    Public,
}

/// Something with a name.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Who sees it.
    pub reach: Reach,
    /// The type that a method belongs to.
    pub owner: Option<String>,
    /// Its line, from 1.
    pub line: usize,
    /// Whether it is test code.
    pub test: bool,
}

/// A function with a body.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// From the signature to the closing brace.
    pub lines: RangeInclusive<usize>,
    /// The lines between the braces.
    pub body: RangeInclusive<usize>,
    /// Whether it is test code.
    pub test: bool,
    /// Whether it is itself a test.
    pub is_test: bool,
}

/// One name that a `use` brings into a module.
#[derive(Clone, Debug)]
pub struct Import {
    /// The module that has the name.
    pub module: Vec<String>,
    /// The name there; `*` for all.
    pub name: String,
    /// What it stands for, as written.
    pub path: Vec<String>,
}

/// A path as it is written somewhere.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The module that it stands in.
    pub module: Vec<String>,
    /// Its segments.
    pub path: Vec<String>,
    /// Its line, from 1.
    pub line: usize,
    /// Whether it is test code.
    pub test: bool,
}

/// A module in a file of its own.
#[derive(Clone, Debug)]
pub struct Submodule {
    /// Its path.
    pub path: Vec<String>,
    /// The file, if an attribute names it.
    pub file: Option<String>,
    /// Whether it is test code.
    pub test: bool,
}

impl Facts {
    /// Reads the file of a module.
    ///
    /// # Errors
    /// It is not Rust.
    pub fn gather(text: &str, module: &[String], test: bool) -> syn::Result<Self> {
        let syntax = syn::parse_file(text)?;
        let mut gather = Gather {
            module: module.to_vec(),
            test,
            owner: None,
            in_trait_impl: false,
            uses: Vec::new(),
            facts: Self::default(),
        };
        gather.visit_file(&syntax);
        let Gather {
            mut facts, uses, ..
        } = gather;
        let tokens: TokenStream = text.parse().map_err(syn::Error::from)?;
        each_ident(tokens, &mut |ident| {
            let (name, line) = (ident.to_string(), line(ident));
            if !test && !facts.is_test(line) && !uses.iter().any(|lines| lines.contains(&line)) {
                *facts.named.entry(name.clone()).or_default() += 1;
            }
            facts.mentioned.insert(name);
        });
        Ok(facts)
    }

    /// Whether this line, from 1, belongs to a test item of the file.
    #[must_use]
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// Another place where the name counts as used in production code.
    fn name(&mut self, name: &str) {
        *self.named.entry(name.to_owned()).or_default() += 1;
    }
}

/// Walks over a file and notes what it says.
struct Gather {
    module: Vec<String>,
    test: bool,
    owner: Option<String>,
    in_trait_impl: bool,
    /// The lines of `use` items.
    uses: Vec<RangeInclusive<usize>>,
    facts: Facts,
}

impl Gather {
    /// Visits something with attributes, as test code if they say so.
    fn within(
        &mut self,
        attributes: &[Attribute],
        span: &impl Spanned,
        visit: impl FnOnce(&mut Self),
    ) {
        let outside = self.test;
        if !outside && attributes.iter().any(is_for_tests) {
            self.test = true;
            let span = span.span();
            let first = attributes
                .iter()
                .map(line)
                .min()
                .unwrap_or_else(|| line(&span));
            self.facts.test_lines.push(first..=span.end().line);
        }
        visit(self);
        self.test = outside;
    }

    fn define(&mut self, name: &Ident, kind: Kind, visibility: Option<&Visibility>) {
        let reach = match visibility {
            Some(Visibility::Public(_)) => Reach::Public,
            Some(Visibility::Restricted(_)) => Reach::Restricted,
            Some(Visibility::Inherited) | None => Reach::Private,
        };
        self.facts.definitions.push(Definition {
            name: name.to_string(),
            kind,
            reach,
            owner: self.owner.clone(),
            line: line(name),
            test: self.test,
        });
    }

    fn function(&mut self, attributes: &[Attribute], signature: &Signature, block: &Block) {
        let braces = block.brace_token.span;
        let (open, close) = (braces.open().start().line, braces.close().end().line);
        self.facts.functions.push(Function {
            name: signature.ident.to_string(),
            lines: line(signature)..=close,
            body: open + 1..=close.saturating_sub(1),
            test: self.test,
            is_test: attributes.iter().any(|attribute| {
                let last = attribute.path().segments.last();
                last.is_some_and(|segment| segment.ident == "test")
            }),
        });
    }

    fn refer(&mut self, path: Vec<String>, line: usize) {
        let begins = |word: &str| path.first().is_some_and(|first| first == word);
        let first_of_workspace = path.first().is_some_and(|f| f.starts_with("countersign"));
        if first_of_workspace
            || (path.len() > 1 && (begins("crate") || begins("super") || begins("self")))
        {
            self.facts.references.push(Reference {
                module: self.module.clone(),
                path,
                line,
                test: self.test,
            });
        }
    }

    fn import(&mut self, tree: &UseTree, prefix: &[String]) {
        let join = |name: &Ident| {
            let mut path = prefix.to_vec();
            path.push(name.to_string());
            path
        };
        match tree {
            UseTree::Path(inner) => self.import(&inner.tree, &join(&inner.ident)),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix);
                }
            }
            UseTree::Name(name) if name.ident == "self" => {
                let known = prefix.last().cloned().unwrap_or_default();
                self.imported(known, prefix.to_vec(), line(&name.ident));
            }
            UseTree::Name(name) => {
                self.imported(name.ident.to_string(), join(&name.ident), line(&name.ident));
            }
            UseTree::Rename(renamed) => {
                if !self.test {
                    self.facts.name(&renamed.ident.to_string());
                }
                let path = join(&renamed.ident);
                self.imported(renamed.rename.to_string(), path, line(&renamed.ident));
            }
            UseTree::Glob(glob) => self.imported("*".to_owned(), prefix.to_vec(), line(glob)),
        }
    }

    fn imported(&mut self, name: String, path: Vec<String>, line: usize) {
        self.facts.imports.push(Import {
            module: self.module.clone(),
            name,
            path: path.clone(),
        });
        self.refer(path, line);
    }

    /// Notes the paths in what a macro is given.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut start = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons < 2 {
                        self.refer(std::mem::take(&mut path), start);
                        start = line(&ident);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    colons = 0;
                    self.scan(group.stream());
                }
                _ => colons = 0,
            }
        }
        self.refer(path, start);
    }
}

impl<'ast> Visit<'ast> for Gather {
    fn visit_item(&mut self, item: &'ast Item) {
        self.within(attributes(item), item, |gather| {
            visit::visit_item(gather, item);
        });
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.define(&item.ident, Kind::Module, Some(&item.vis));
        self.module.push(item.ident.to_string());
        if !self.test {
            self.facts.modules.push(self.module.clone());
        }
        if item.content.is_none() {
            self.facts.submodules.push(Submodule {
                path: self.module.clone(),
                file: item.attrs.iter().find_map(path_attribute),
                test: self.test,
            });
        }
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let span = item.span();
        self.uses.push(line(&item.use_token)..=span.end().line);
        self.import(&item.tree, &[]);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let owner = self.owner.take();
        self.define(&item.sig.ident, Kind::Function, Some(&item.vis));
        self.function(&item.attrs, &item.sig, &item.block);
        visit::visit_item_fn(self, item);
        self.owner = owner;
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let owner = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.clone()),
            _ => None,
        };
        if let Some(owner) = &owner {
            self.define(owner, Kind::ImplHead, None);
        }
        self.owner = owner.map(|owner| owner.to_string());
        self.in_trait_impl = item.trait_.is_some();
        visit::visit_item_impl(self, item);
        self.owner = None;
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let none = Vec::new();
        let attributes = match item {
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => &none,
        };
        self.within(attributes, item, |gather| {
            visit::visit_impl_item(gather, item);
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let kind = if self.in_trait_impl {
            Kind::TraitMethod
        } else {
            Kind::Method
        };
        self.define(&item.sig.ident, kind, Some(&item.vis));
        self.function(&item.attrs, &item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        let reach = (!self.in_trait_impl).then_some(&item.vis);
        self.define(&item.ident, Kind::Constant, reach);
        visit::visit_impl_item_const(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.define(&item.ident, Kind::Type, Some(&item.vis));
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.define(&item.ident, Kind::Type, Some(&item.vis));
        visit::visit_item_enum(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.define(&item.ident, Kind::Type, Some(&item.vis));
        visit::visit_item_type(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.define(&item.ident, Kind::Type, Some(&item.vis));
        visit::visit_item_trait(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.define(&item.ident, Kind::Constant, Some(&item.vis));
        visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.define(&item.ident, Kind::Constant, Some(&item.vis));
        visit::visit_item_static(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.attrs, &item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if let syn::Fields::Unnamed(fields) = &variant.fields
            && let Some(field) = fields.unnamed.first()
            && fields.unnamed.len() == 1
            && !self.test
            && is_string(&field.ty)
        {
            self.facts.string_variants.push(line(&variant.ident));
        }
        visit::visit_variant(self, variant);
    }

    fn visit_type_path(&mut self, ty: &'ast syn::TypePath) {
        if let Some(last) = ty.path.segments.last()
            && last.ident == "Result"
            && let syn::PathArguments::AngleBracketed(arguments) = &last.arguments
            && let Some(syn::GenericArgument::Type(error)) = arguments.args.get(1)
            && !self.test
            && is_string(error)
        {
            self.facts.string_results.push(line(&last.ident));
        }
        visit::visit_type_path(self, ty);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        self.refer(segments.collect(), line(path));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.scan(called.tokens.clone());
        visit::visit_macro(self, called);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
            // `#[serde(default = "path::to::function")]` names a function in a string.
            each_literal(list.tokens.clone(), &mut |text| {
                for name in text.trim_matches('"').split("::") {
                    self.facts.name(name);
                }
            });
        }
        visit::visit_attribute(self, attribute);
    }
}

fn line(spanned: &impl Spanned) -> usize {
    spanned.span().start().line
}

fn each_ident(tokens: TokenStream, take: &mut impl FnMut(&Ident)) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => take(&ident),
            TokenTree::Group(group) => each_ident(group.stream(), take),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn each_literal(tokens: TokenStream, take: &mut impl FnMut(&str)) {
    for token in tokens {
        match token {
            TokenTree::Literal(literal) => take(&literal.to_string()),
            TokenTree::Group(group) => each_literal(group.stream(), take),
            TokenTree::Punct(_) | TokenTree::Ident(_) => {}
        }
    }
}

fn is_string(ty: &syn::Type) -> bool {
    let syn::Type::Path(path) = ty else {
        return false;
    };
    path.path
        .segments
        .last()
        .is_some_and(|last| last.ident == "String")
}

/// Whether it is `#[cfg(test)]`, alone or with other conditions that must hold too.
fn is_for_tests(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list
            .parse_args::<Meta>()
            .is_ok_and(|condition| needs_test(&condition)),
        _ => false,
    }
}

fn needs_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .is_ok_and(|conditions| conditions.iter().any(needs_test)),
        _ => false,
    }
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) if pair.path.is_ident("path") => Some(text.value()),
        _ => None,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
