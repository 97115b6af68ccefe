//! The import rule of `src/lib.rs`: a room names only rooms below its own.
//!
//! Reads the source as tokens, not the compiled crate: every path that starts at `crate`, `super`, `self` or (in `main`)
//! `penstock` is resolved to a room, test modules included. Comments are not code: a doc link may point anywhere.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the top down. A room may name those of later levels only, and itself.
const LEVELS: &[&[&str]] = &[
    &["main", "cli"],
    &["daemon"],
    &["job", "policy", "restore", "validate", "verify", "prune", "stats"],
    &["catalog", "download", "retention"],
    &["stream", "upload", "snapshot"],
    &["source", "resources"],
    &["retry", "state"],
    &["store", "disks", "cluster", "site"],
    &["aws", "kube"],
    &["config", "format", "error", "metrics", "budget", "limits", "checksum", "clock", "network", "nearest"],
];

/// Files longer than this are two rooms, or a framework.
const MAX_LINES: usize = 450;

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// Why `from` may not name `to`; `None` when it may.
fn objection(from: &str, to: &str) -> Option<String> {
    let Some(above) = level(from) else {
        return Some(format!("`{from}` is not in the list of rooms: place it in the list (tests/suite/imports.rs)"));
    };
    let Some(below) = level(to) else {
        return Some(format!("`{to}` is not in the list of rooms: place it in the list (tests/suite/imports.rs)"));
    };
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

/// Words and signs of Rust source, each with its line. Comments, literals and lifetimes are dropped, except that a string which is
/// a path into this crate (`#[serde(with = "crate::…")]`) counts as that path.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let mut lexer = Lexer { chars: source.chars().collect(), at: 0, line: 1, tokens: Vec::new() };
    while lexer.at < lexer.chars.len() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<(usize, Token)>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip(&mut self, count: usize) {
        let end = (self.at + count).min(self.chars.len());
        self.line += self.chars[self.at..end].iter().filter(|c| **c == '\n').count();
        self.at = end;
    }

    fn rest_starts_with(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == c)
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((self.line, token));
    }

    fn step(&mut self) {
        let c = self.peek(0);
        if self.rest_starts_with("//") {
            while self.at < self.chars.len() && self.peek(0) != '\n' {
                self.skip(1);
            }
        } else if self.rest_starts_with("/*") {
            self.block_comment();
        } else if c == '"' {
            self.string();
        } else if c == '\'' {
            self.quote();
        } else if c.is_alphabetic() || c == '_' {
            self.word();
        } else if c.is_ascii_digit() {
            while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
                self.skip(1);
            }
        } else if self.rest_starts_with("::") {
            self.push(Token::Colons);
            self.skip(2);
        } else {
            if !c.is_whitespace() {
                self.push(Token::Sign(c));
            }
            self.skip(1);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.chars.len() {
            if self.rest_starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest_starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.skip(1);
            }
        }
    }

    fn string(&mut self) {
        let line = self.line;
        let mut content = String::new();
        self.skip(1);
        while self.at < self.chars.len() && self.peek(0) != '"' {
            let escaped = self.peek(0) == '\\';
            content.push(self.peek(usize::from(escaped)));
            self.skip(1 + usize::from(escaped));
        }
        self.skip(1);
        self.string_path(&content, line);
    }

    fn raw_string(&mut self) {
        let line = self.line;
        let mut hashes = 0;
        while self.peek(0) == '#' {
            hashes += 1;
            self.skip(1);
        }
        self.skip(1);
        let end = format!("\"{}", "#".repeat(hashes));
        let mut content = String::new();
        while self.at < self.chars.len() && !self.rest_starts_with(&end) {
            content.push(self.peek(0));
            self.skip(1);
        }
        self.skip(end.len());
        self.string_path(&content, line);
    }

    fn string_path(&mut self, content: &str, line: usize) {
        if content.starts_with("crate::") {
            self.tokens.extend(tokens(content).into_iter().map(|(_, token)| (line, token)));
        }
        // Something stands between what was before the string and what comes after it.
        self.push(Token::Sign('"'));
    }

    /// A character literal or a lifetime.
    fn quote(&mut self) {
        let literal = self.peek(1) == '\\' || self.peek(2) == '\'';
        self.skip(1);
        if literal {
            self.skip(1 + usize::from(self.peek(0) == '\\'));
            while self.at < self.chars.len() && self.peek(0) != '\'' {
                self.skip(1);
            }
            self.skip(1);
        } else {
            while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
                self.skip(1);
            }
        }
    }

    fn word(&mut self) {
        let line = self.line;
        let mut word = String::new();
        while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
            word.push(self.peek(0));
            self.skip(1);
        }
        let raw = matches!(word.as_str(), "r" | "br" | "cr");
        match self.peek(0) {
            '"' if raw => self.raw_string(),
            '#' if raw && matches!(self.peek(1), '"' | '#') => self.raw_string(),
            // `r#type`: the word is what follows.
            '#' if word == "r" => self.skip(1),
            '"' if matches!(word.as_str(), "b" | "c") => self.string(),
            '\'' if word == "b" => self.quote(),
            _ => self.tokens.push((line, Token::Word(word))),
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
                let is_use = word == "use";
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
    let is_main = module.first().is_some_and(|room| room == "main");
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
        if written[0].starts_with("aws_") && from != "aws" {
            complain(format!("only src/aws/ names an AWS crate, not `{from}`"));
        }
        if matches!(written[0].as_str(), "kube" | "kube_client" | "kube_core" | "k8s_openapi") && from != "kube" {
            complain(format!("only src/kube/ names a kube crate, not `{from}`"));
        }
        let Some(target) = resolve(&module, &written) else { continue };
        // The root itself: `lib.rs` only lists rooms, so nothing but a glob could be meant.
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
        let room = module_of(&file).into_iter().next();
        if let Some(why) = room.filter(|room| level(room).is_none()).and_then(|room| objection(&room, &room)) {
            writeln!(report, "src/{}: {why}", file.display()).unwrap();
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn files_are_short() {
    for (file, source) in sources() {
        let lines = source.lines().count();
        // A table of cases is one room however long it grows.
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
        ("job/mod.rs", "let c = '\"'; let l: &'a str; use crate::cli::X; // \"", "`cli`"),
        ("job/mod.rs", "let s = r#\"\" \"#; use crate::cli::X;", "`cli`"),
        ("job/mod.rs", "use crate::cellar::Wine;", "place it in the list"),
        ("cellar/mod.rs", "use crate::error::Class;", "place it in the list"),
        ("cellar.rs", "use crate::error::Class;", "place it in the list"),
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
