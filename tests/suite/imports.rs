//! The import rule of `src/lib.rs`: a module names only modules below its own.
//!
//! Reads the source as tokens, not the compiled crate: every path that starts at `crate`, `super`, `self` or (in `main`)
//! `penstock` is resolved to a module of the list, test modules and macros included. Comments are not code: a doc link may point anywhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// Files longer than this are two modules, or a framework.
const MAX_LINES: usize = 450;

/// The numbered list in `src/lib.rs`, from the top down: a module may name those of later levels, and itself.
static LEVELS: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    let mut levels = Vec::new();
    for line in read("src/lib.rs").lines().map_while(|line| line.strip_prefix("//!")) {
        if line.starts_with(&format!(" {}. ", levels.len() + 1)) {
            levels.push(Vec::new());
        }
        if let Some(level) = levels.last_mut() {
            let names = line.split("[`").skip(1).filter_map(|rest| rest.split_once("`]"));
            level.extend(names.map(|(name, _)| name.trim_start_matches("mod@").to_owned()));
        }
    }
    levels
});

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn level(module: &str) -> Option<usize> {
    // The binary's own file belongs to the command line.
    let module = if module == "main" { "cli" } else { module };
    LEVELS.iter().position(|modules| modules.iter().any(|known| known == module))
}

/// Why `from` may not name `to`; `None` when it may.
fn objection(from: &str, to: &str) -> Option<String> {
    let unlisted =
        |module: &str| Some(format!("`{module}` is not in the list of modules: place it there (src/lib.rs)"));
    let Some(above) = level(from) else { return unlisted(from) };
    let Some(below) = level(to) else { return unlisted(to) };
    let ground = LEVELS.len() - 1;
    let allowed = match (from, to) {
        _ if from == to => true,
        ("main" | "cli", _) => to != "main",
        // The adapters implement the ports, so they are the modules that look up; and only `cli` plugs them in.
        ("aws", "disks" | "site" | "store") | ("kube", "cluster") => true,
        (_, "aws" | "kube") => false,
        _ => above < below || (above == ground && below == ground),
    };
    (!allowed).then(|| format!("`{from}` names `{to}`, which is not below it"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Colons,
    Sign(char),
}

/// Words and signs of Rust source, what macros get included, each with its line. Comments, literals and lifetimes are dropped, except
/// that a string which is a path into this crate (`#[serde(with = "crate::…")]`) counts as that path.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let mut out = Vec::new();
    flatten(source.parse().unwrap(), &mut out);
    out
}

fn flatten(stream: TokenStream, out: &mut Vec<(usize, Token)>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ('{', '}'),
                    Delimiter::Bracket => ('[', ']'),
                    Delimiter::Parenthesis | Delimiter::None => ('(', ')'),
                };
                out.push((line, Token::Sign(open)));
                flatten(group.stream(), out);
                out.push((group.span_close().start().line, Token::Sign(close)));
            }
            TokenTree::Ident(word) => {
                out.push((line, Token::Word(word.to_string().trim_start_matches("r#").to_owned())));
            }
            TokenTree::Punct(sign) if sign.as_char() == ':' && sign.spacing() == Spacing::Joint => {
                trees.next_if(|next| matches!(next, TokenTree::Punct(next) if next.as_char() == ':'));
                out.push((line, Token::Colons));
            }
            // A lifetime's name is no path's beginning.
            TokenTree::Punct(sign) if sign.as_char() == '\'' => drop(trees.next()),
            TokenTree::Punct(sign) => out.push((line, Token::Sign(sign.as_char()))),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                let path = text.trim_matches('"');
                if path.starts_with("crate::") {
                    out.extend(tokens(path).into_iter().map(|(_, token)| (line, token)));
                }
                // Something stands between what was before the literal and what comes after it.
                out.push((line, Token::Sign('"')));
            }
        }
    }
}

/// One path of a file, as written.
type Written = (usize, Vec<String>);

/// Every path of `tokens` with two segments or more, and every one that `use` names, each with the inline modules around it.
fn paths(tokens: &[(usize, Token)]) -> Vec<(Vec<String>, Written)> {
    let mut found = Vec::new();
    let mut modules: Vec<(usize, String)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let next = |ahead: usize| tokens.get(at + ahead).map(|(_, token)| token);
        let before = at.checked_sub(1).map(|before| &tokens[before].1);
        match &tokens[at].1 {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => {
                depth -= 1;
                modules.retain(|(opened, _)| *opened <= depth);
            }
            Token::Word(word) if word == "mod" => {
                if let (Some(Token::Word(name)), Some(Token::Sign('{'))) = (next(1), next(2)) {
                    modules.push((depth + 1, name.clone()));
                }
            }
            Token::Word(word) => {
                // `impl Trait + use<'a>` names no path.
                let is_use = word == "use" && next(1) != Some(&Token::Sign('<'));
                let starts = before != Some(&Token::Colons) && before != Some(&Token::Sign('.'));
                if is_use || (starts && next(1) == Some(&Token::Colons)) {
                    let start = at + usize::from(is_use);
                    let start = start + usize::from(tokens.get(start).map(|(_, token)| token) == Some(&Token::Colons));
                    let mut trees = Vec::new();
                    let end = tree(tokens, start, &[], &mut trees);
                    let inside: Vec<String> = modules.iter().map(|(_, name)| name.clone()).collect();
                    found.extend(trees.into_iter().map(|path| (inside.clone(), path)));
                    at = end.max(at + 1);
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads the path or use tree at `at` below `prefix`; the position after it.
fn tree(tokens: &[(usize, Token)], mut at: usize, prefix: &[String], out: &mut Vec<Written>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |(line, _)| *line);
    loop {
        match tokens.get(at).map(|(_, token)| token) {
            Some(Token::Word(word)) => path.push(word.clone()),
            Some(Token::Sign('*')) => path.push("*".to_owned()),
            Some(Token::Sign('{')) => return group(tokens, at + 1, &path, out),
            _ => break,
        }
        at += 1;
        if tokens.get(at).map(|(_, token)| token) != Some(&Token::Colons) {
            break;
        }
        at += 1;
    }
    // `{self, …}` names the module itself.
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    out.push((line, path));
    at
}

fn group(tokens: &[(usize, Token)], mut at: usize, prefix: &[String], out: &mut Vec<Written>) -> usize {
    while let Some((_, token)) = tokens.get(at) {
        match token {
            Token::Sign('}') => return at + 1,
            // `a as b`
            Token::Word(word) if word == "as" => at += 2,
            Token::Word(_) | Token::Sign('{' | '*') => at = tree(tokens, at, prefix, out).max(at + 1),
            Token::Colons | Token::Sign(_) => at += 1,
        }
    }
    at
}

/// The module a file is: `store/memory.rs` is `store::memory`, `lib.rs` the root.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || (module.len() == 1 && last == "lib")) {
        module.pop();
    }
    module
}

/// `written`, as seen from `module`, from the crate's root on; `None` for another crate's path or a local name's.
fn resolve(module: &[String], written: &[String]) -> Option<Vec<String>> {
    let is_main = module.first().is_some_and(|top| top == "main");
    let mut base: Vec<String> = match written.first()?.as_str() {
        "crate" if is_main => vec!["main".to_owned()],
        "crate" => Vec::new(),
        "penstock" if is_main => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for segment in &written[usize::from(!matches!(written[0].as_str(), "self" | "super"))..] {
        match segment.as_str() {
            "self" => {}
            "super" => {
                base.pop();
            }
            name => base.push(name.to_owned()),
        }
    }
    Some(base)
}

/// What is wrong with one file (its path relative to `src/`), one line each.
fn violations(file: &Path, source: &str) -> Vec<String> {
    let file_module = module_of(file);
    let mut out = Vec::new();
    for (inside, (line, written)) in paths(&tokens(source)) {
        let module: Vec<String> = file_module.iter().cloned().chain(inside).collect();
        let mut complain =
            |what: String| out.push(format!("{}:{line}: {what} ({})", file.display(), written.join("::")));
        let from = file_module.first().map_or("the root", String::as_str);
        // aws-lc is a library of cryptography, not of a service.
        let is_cryptography = written[0] == "aws_lc_rs";
        if is_cryptography && from != "age" {
            complain(format!("only src/age/ names aws-lc, not `{from}`"));
        } else if written[0].starts_with("aws_") && from != "aws" && !is_cryptography {
            complain(format!("only src/aws/ names an AWS crate, not `{from}`"));
        }
        if matches!(written[0].as_str(), "kube" | "kube_client" | "kube_core" | "k8s_openapi") && from != "kube" {
            complain(format!("only src/kube/ names a kube crate, not `{from}`"));
        }
        let Some(target) = resolve(&module, &written) else { continue };
        // The root itself: `lib.rs` only lists modules, so nothing but a glob could be meant.
        let Some(to) = target.first() else { continue };
        if let Some(why) = objection(from, to) {
            complain(why);
        }
    }
    out
}

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push((path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut out = Vec::new();
    walk(&root, &root, &mut out);
    out.sort();
    assert!(out.len() > 10, "only {} files were found under {}", out.len(), root.display());
    out
}

#[test]
fn imports_go_only_downward() {
    let mut report = String::new();
    for (file, source) in sources() {
        for violation in violations(&file, &source) {
            writeln!(report, "src/{violation}").unwrap();
        }
        let top = module_of(&file).into_iter().next();
        if let Some(why) = top.filter(|top| level(top).is_none()).and_then(|top| objection(&top, &top)) {
            writeln!(report, "src/{}: {why}", file.display()).unwrap();
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

/// The other lists of modules: README's table has the same ones in the same order, and pages name folders that are there.
#[test]
fn the_lists_of_modules_agree() {
    let listed: Vec<&String> = LEVELS.iter().flatten().collect();
    let files = sources().into_iter().filter_map(|(file, _)| module_of(&file).into_iter().next());
    let there: BTreeSet<String> = files.filter(|module| module != "main").collect();
    assert_eq!(listed.iter().copied().cloned().collect::<BTreeSet<_>>(), there);
    assert_eq!(listed.len(), there.len(), "a module is listed twice: {listed:?}");

    let readme = read("README.md");
    let table = readme.split_once("| `src/` | |").unwrap().1.lines().skip(2).map_while(|row| row.strip_prefix("| "));
    let cells = table.map(|row| row.split(" |").next().unwrap().split('`').skip(1).step_by(2));
    let rows: Vec<Vec<&str>> = cells.map(|names| names.filter(|name| !name.contains('/')).collect()).collect();
    let named: BTreeSet<String> = rows.iter().flatten().map(|name| (*name).to_owned()).collect();
    let folders = ["benches", "config", "systemd"].map(str::to_owned);
    assert_eq!(&named - &BTreeSet::from(folders.clone()), &there - &BTreeSet::from(folders), "README.md");
    let levels = rows.iter().map(|row| row.iter().filter_map(|name| level(name)).max());
    let levels: Vec<usize> = levels.flatten().take(rows.len() - 1).collect();
    assert!(levels.is_sorted(), "README.md has another order than src/lib.rs: {levels:?}");

    for page in ["README.md", "docs/architecture.md", "CONTRIBUTING.md"] {
        let text = read(page);
        let paths = text.split('`').filter_map(|path| path.strip_prefix("src/"));
        for path in paths.filter(|path| !path.is_empty() && !path.contains([' ', '{', '…'])) {
            assert!(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path).exists(),
                "{page}: src/{path} is not there"
            );
        }
    }
}

#[test]
fn files_are_short() {
    for (file, source) in sources() {
        let lines = source.lines().count();
        // A table of cases is one module however long it grows.
        let table = file.ends_with("tests.rs");
        assert!(table || lines <= MAX_LINES, "src/{} has {lines} lines; at most {MAX_LINES}", file.display());
    }
}

#[test]
fn the_checker_finds_violations() {
    for (file, source, expected) in [
        ("store/mod.rs", "use crate::aws::s3;", "not below"),
        ("store/mod.rs", "use crate::{error::Class, upload};", "`upload`"),
        ("store/mod.rs", "use {crate::error, crate::cli};", "`cli`"),
        ("store/memory.rs", "fn f() { super::super::job::run() }", "`job`"),
        ("source/tree/walk.rs", "use super::super::{super::stream, mod_rs};", "`stream`"),
        ("source/mod.rs", "use crate::upload::Part;", "`upload`"),
        ("format/key.rs", "fn f(x: &crate::store::Page) {}", "`store`"),
        ("budget.rs", "#[cfg(test)] mod tests { use crate::stream::X; }", "`stream`"),
        ("budget.rs", "mod a { mod b { use super::super::super::store; } }", "`store`"),
        ("budget.rs", "mod a {} use super::store;", "`store`"),
        ("config/model.rs", "#[serde(with = \"crate::job::x\")] a: A", "`job`"),
        ("job/mod.rs", "let x: Option<crate::aws::Sdk> = None;", "`aws`"),
        ("daemon/mod.rs", "use crate::aws;", "`aws`"),
        ("job/mod.rs", "use aws_sdk_s3::Client;", "only src/aws/"),
        ("job/mod.rs", "use ::aws_sdk_s3 as s3;", "only src/aws/"),
        ("resources/mod.rs", "use kube::Client;", "only src/kube/"),
        ("resources/mod.rs", "use crate::kube::Client;", "`kube`"),
        ("job/mod.rs", "fn f() -> aws_config::Config {}", "only src/aws/"),
        ("main.rs", "fn main() { aws_config::load() }", "only src/aws/"),
        ("job/mod.rs", "use aws_lc_rs::hmac;", "only src/age/"),
        ("job/mod.rs", "let c = '\"'; let l: &'a str; use crate::cli::X; // \"", "`cli`"),
        ("job/mod.rs", "let s = r#\"\" \"#; use crate::cli::X;", "`cli`"),
        ("job/mod.rs", "macro_rules! m { () => { $crate::cli::run() } }", "`cli`"),
        ("job/mod.rs", "fn f() { vec![crate::cli::X] }", "`cli`"),
        ("job/mod.rs", "use crate::cellar::Wine;", "place it there"),
        ("cellar/mod.rs", "use crate::error::Class;", "place it there"),
        ("cellar.rs", "use crate::error::Class;", "place it there"),
    ] {
        let found = violations(Path::new(file), source);
        assert!(found.len() == 1 && found[0].contains(expected), "{file}: {source}\n{found:?}");
    }
}

#[test]
fn the_checker_allows_what_is_allowed() {
    for (file, source) in [
        ("main.rs", "fn main() -> std::process::ExitCode { penstock::cli::main() }"),
        ("cli/backup.rs", "use crate::{aws::connect, job, source, config::Config}; use super::output;"),
        ("aws/s3/mod.rs", "use crate::store::{self, Store}; use aws_sdk_s3::Client; use super::super::error::Class;"),
        ("job/mod.rs", "use crate::upload::{Part, sweep::*}; use crate::{error::{Class, Report}, format};"),
        ("error.rs", "mod tests { use super::*; use crate::config::Config; }"),
        ("config/model.rs", "/// [`crate::job`]\n/* crate::cli /* */ crate::cli */ struct X; // crate::daemon"),
        ("stream/encode.rs", "fn f() -> impl Future + use<> {} fn g() -> impl Future + use<'_, T> {}"),
        ("config/model.rs", "const TEXT: &str = \"see crate::job\"; use rustls::crypto::{aws_lc_rs, ring};"),
        (
            "source/tree/walk.rs",
            "use super::header::Header; use super::super::Warning; pub(in crate::source) fn f() {}",
        ),
        ("stream/mod.rs", "fn f<'a>(x: &'a str) -> char { 'x' } use crate::store::Store; use crate::budget::Budget;"),
        ("lib.rs", "pub mod aws; pub mod cli;"),
    ] {
        let found = violations(Path::new(file), source);
        assert!(found.is_empty(), "{file}: {source}\n{found:?}");
    }
}
