//! Regular expressions: RE2 syntax, linear time, bounded size, matched against the whole string.
//!
//! A predicate ([`Pattern`]) is compiled to a complete automaton where that stays small. It has no
//! mutable state, so shards share it without ever writing to a common cache line, and matching does
//! not allocate. An expression whose automaton would be too big falls back to the `regex` engine,
//! which is as linear but keeps pooled scratch space.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};
use thiserror::Error;

use super::re2;

/// A predicate over whole strings.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Automaton(Arc<dense::DFA<Vec<u32>>>),
    Pooled(Regex),
}

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Not an expression of RE2's syntax.
    #[error("not a regular expression of RE2's syntax: {0}")]
    Syntax(String),
    /// Its compiled form would be too large.
    #[error("regular expression is too large: its compiled form exceeds {PROGRAM_BYTES_MAX} bytes")]
    TooLarge,
    /// A replacement names a group that the expression does not have, or is not well formed.
    #[error("substitution: {0}")]
    Substitution(String),
}

impl Pattern {
    /// Compiles RE2 syntax.
    ///
    /// # Errors
    /// If it is not RE2 syntax, or too large.
    pub fn new(source: &str) -> Result<Pattern, PatternError> {
        let translated = re2::translate(source)?;
        let engine = match automaton(&translated) {
            Some(automaton) => Engine::Automaton(Arc::new(automaton)),
            // Too large for that, or wrong: the `regex` engine is the judge.
            None => Engine::Pooled(whole_match(&translated)?),
        };
        Ok(Pattern { source: source.into(), engine })
    }

    /// The expression as it was configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether all of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match &self.engine {
            Engine::Automaton(automaton) => walk(automaton, text.iter().copied()),
            Engine::Pooled(regex) => regex.is_match(text),
        }
    }

    /// As [`Pattern::matches`] for text in several pieces. Only the pooled engine copies them together.
    pub(super) fn matches_bytes(&self, text: impl Iterator<Item = u8>) -> bool {
        match &self.engine {
            Engine::Automaton(automaton) => walk(automaton, text),
            Engine::Pooled(regex) => regex.is_match(&text.collect::<Vec<u8>>()),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.source).finish()
    }
}

/// Two patterns are equal when they were written alike.
impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

/// Finds the first match of an expression anywhere in a text, and its first two groups.
#[derive(Clone)]
pub struct Finder {
    source: Box<str>,
    regex: Regex,
}

impl Finder {
    /// Compiles RE2 syntax.
    ///
    /// # Errors
    /// If it is not RE2 syntax, too large, or without a group.
    pub fn new(source: &str) -> Result<Finder, PatternError> {
        let regex = build(&re2::translate(source)?)?;
        if regex.captures_len() < 2 {
            return Err(PatternError::Syntax("there must be a group".to_owned()));
        }
        Ok(Finder { source: source.into(), regex })
    }

    /// Where the first group is, which must be there, and the second.
    pub(crate) fn groups(&self, text: &str) -> Option<(Range<usize>, Option<Range<usize>>)> {
        let captures = self.regex.captures(text.as_bytes())?;
        let range = |group| captures.get(group).map(|found| found.range());
        Some((range(1)?, range(2)))
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Finder").field(&self.source).finish()
    }
}

/// Every match of an expression is replaced by a text with groups.
#[derive(Debug, Clone)]
pub struct RegexRewrite {
    regex: Regex,
    pieces: Box<[Piece]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<[u8]>),
    Group(usize),
}

impl RegexRewrite {
    /// Compiles RE2 syntax and RE2's replacement syntax: `\0` to `\9` for groups, `\\` for a backslash.
    ///
    /// # Errors
    /// If either is not well formed, or the expression is too large.
    pub fn new(pattern: &str, substitution: &str) -> Result<RegexRewrite, PatternError> {
        let regex = build(&re2::translate(pattern)?)?;
        let pieces = parse_substitution(substitution, regex.captures_len() - 1)?;
        Ok(RegexRewrite { regex, pieces })
    }

    /// Appends to `out` a copy of `text` in which every match is replaced. Allocates scratch space.
    pub fn rewrite_into(&self, text: &[u8], out: &mut Vec<u8>) {
        let mut copied = 0;
        for captures in self.regex.captures_iter(text) {
            let Some(matched) = captures.get(0) else { continue };
            out.extend_from_slice(&text[copied..matched.start()]);
            for piece in &self.pieces {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text),
                    Piece::Group(group) => {
                        out.extend_from_slice(captures.get(*group).map_or(b"", |m| m.as_bytes()));
                    }
                }
            }
            copied = matched.end();
        }
        out.extend_from_slice(&text[copied..]);
    }
}

fn parse_substitution(text: &str, groups: usize) -> Result<Box<[Piece]>, PatternError> {
    let mut pieces = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            literal.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                let group = usize::from(digit - b'0');
                if group > groups {
                    return Err(PatternError::Substitution(format!(
                        "\\{group} is used, but the expression has {groups} groups"
                    )));
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
                }
                pieces.push(Piece::Group(group));
            }
            _ => {
                return Err(PatternError::Substitution(
                    "a backslash must be followed by a digit or a backslash".to_owned(),
                ));
            }
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal.into()));
    }
    Ok(pieces.into())
}

fn whole_match(translated: &str) -> Result<Regex, PatternError> {
    build(&format!(r"\A(?:{translated})\z"))
}

fn build(translated: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(translated).size_limit(PROGRAM_BYTES_MAX).build().map_err(|error| match error
    {
        regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
        error => PatternError::Syntax(last_line(&error.to_string())),
    })
}

/// The parser draws the expression with a caret on several lines; the last says what is wrong.
fn last_line(message: &str) -> String {
    let last = message.lines().last().unwrap_or(message);
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

fn automaton(translated: &str) -> Option<dense::DFA<Vec<u32>>> {
    dense::Builder::new()
        .configure(
            dense::Config::new()
                .start_kind(StartKind::Anchored)
                // Every way to match must be followed to the end of the text.
                .match_kind(MatchKind::All)
                .dfa_size_limit(Some(AUTOMATON_BYTES_MAX))
                .determinize_size_limit(Some(AUTOMATON_BUILD_BYTES_MAX)),
        )
        .syntax(syntax::Config::new().utf8(false))
        .thompson(
            thompson::Config::new().utf8(false).nfa_size_limit(Some(AUTOMATON_BUILD_BYTES_MAX)),
        )
        .build(translated)
        .ok()
}

fn walk(automaton: &dense::DFA<Vec<u32>>, text: impl Iterator<Item = u8>) -> bool {
    let start = start::Config::new().anchored(Anchored::Yes);
    let Ok(mut state) = automaton.start_state(&start) else { return false };
    for byte in text {
        state = automaton.next_state(state, byte);
        if automaton.is_special_state(state)
            && (automaton.is_dead_state(state) || automaton.is_quit_state(state))
        {
            return false;
        }
    }
    automaton.is_match_state(automaton.next_eoi_state(state))
}

/// Compiled size of an expression: far above what routes need, far below what hurts.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// A complete automaton up to this size is worth its memory; there may be thousands of routes.
const AUTOMATON_BYTES_MAX: usize = 64 << 10;

/// Scratch for building it; bounds the time that an unlucky expression can cost at load.
const AUTOMATON_BUILD_BYTES_MAX: usize = 512 << 10;
