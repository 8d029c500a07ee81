//! RE2's syntax in terms of the `regex` crate's, where the two differ.
//!
//! Both are linear-time and nearly alike. RE2's perl classes and word boundaries are ASCII, it has
//! `\Q...\E`, octal escapes and `\C`, it takes any escaped punctuation literally, and inside brackets
//! it knows neither nesting nor set operations. What it does not have (`x` flag, `\<`, `\uXXXX`, the
//! `R` flag) must not slip through with another meaning.

use super::pattern::PatternError;

/// Rewrites `source`; the result still has to be compiled, which finds what is left of syntax errors.
pub(super) fn translate(source: &str) -> Result<String, PatternError> {
    let mut translator = Translator { rest: source.chars(), out: String::new() };
    while let Some(c) = translator.rest.next() {
        match c {
            '\\' => translator.escape(false)?,
            '[' => translator.class()?,
            '(' => translator.group()?,
            '{' => translator.repetition()?,
            _ => translator.out.push(c),
        }
    }
    Ok(translator.out)
}

struct Translator<'a> {
    rest: std::str::Chars<'a>,
    out: String,
}

impl Translator<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.rest.next();
        }
        found
    }

    /// After a backslash.
    fn escape(&mut self, in_class: bool) -> Result<(), PatternError> {
        let Some(c) = self.rest.next() else {
            return Err(error("the expression ends in a backslash"));
        };
        match c {
            'd' => self.perl("[0-9]"),
            'D' => self.perl("[^0-9]"),
            's' => self.perl(r"[\t\n\f\r ]"),
            'S' => self.perl(r"[^\t\n\f\r ]"),
            'w' => self.perl("[0-9A-Za-z_]"),
            'W' => self.perl("[^0-9A-Za-z_]"),
            'b' if !in_class => self.out.push_str(r"(?-u:\b)"),
            'B' if !in_class => self.out.push_str(r"(?-u:\B)"),
            'A' | 'z' if !in_class => self.keep(c),
            'C' if !in_class => self.out.push_str(r"(?s-u:.)"),
            'Q' if !in_class => self.quoted(),
            'a' | 'f' | 't' | 'n' | 'r' | 'v' => self.keep(c),
            'p' | 'P' => self.property(c),
            'x' => self.hexadecimal()?,
            '0'..='7' => self.octal(c)?,
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => self.literal(c),
            c => return Err(error(format!("\\{c} is not an escape of RE2"))),
        }
        Ok(())
    }

    fn perl(&mut self, class: &str) {
        // Nested brackets are a union in the target's syntax, so the same text serves in a class.
        self.out.push_str(class);
    }

    fn keep(&mut self, c: char) {
        self.out.push('\\');
        self.out.push(c);
    }

    /// `c` as itself, wherever it stands.
    fn literal(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || !c.is_ascii() || matches!(c, '<' | '>') {
            self.out.push(c);
        } else if c.is_ascii_control() {
            self.code_point(u32::from(c));
        } else {
            self.keep(c);
        }
    }

    fn code_point(&mut self, code: u32) {
        self.out.push_str(&format!("\\x{{{code:x}}}"));
    }

    /// `\pL` and `\p{Greek}`: the braces are no repetition.
    fn property(&mut self, c: char) {
        self.keep(c);
        if self.eat('{') {
            self.out.push('{');
            for c in self.rest.by_ref() {
                self.out.push(c);
                if c == '}' {
                    return;
                }
            }
        }
    }

    fn quoted(&mut self) {
        while let Some(c) = self.rest.next() {
            if c == '\\' && self.peek() == Some('E') {
                self.rest.next();
                return;
            }
            self.literal(c);
        }
    }

    /// `\x7F` and `\x{10FFFF}`.
    fn hexadecimal(&mut self) -> Result<(), PatternError> {
        let in_braces = self.eat('{');
        let digits: String = if in_braces {
            self.rest.by_ref().take_while(|c| *c != '}').collect()
        } else {
            self.rest.by_ref().take(2).collect()
        };
        match u32::from_str_radix(&digits, 16).ok().filter(|code| char::from_u32(*code).is_some()) {
            Some(code) if in_braces || digits.len() == 2 => {
                self.code_point(code);
                Ok(())
            }
            _ => Err(error(format!("\\x{digits} is not a code point"))),
        }
    }

    /// `\0`, `\07`, `\123`. A single digit other than 0 would be a back-reference, which RE2 has not.
    fn octal(&mut self, first: char) -> Result<(), PatternError> {
        let mut digits = String::from(first);
        while digits.len() < 3
            && let Some(next @ '0'..='7') = self.peek()
        {
            digits.push(next);
            self.rest.next();
        }
        if digits.len() == 1 && first != '0' {
            return Err(error(format!("\\{first}: back-references are not supported")));
        }
        match u32::from_str_radix(&digits, 8) {
            Ok(code) => {
                self.code_point(code);
                Ok(())
            }
            Err(_) => Err(error(format!("\\{digits} is not an octal escape"))),
        }
    }

    /// After `[`, up to its `]`.
    fn class(&mut self) -> Result<(), PatternError> {
        self.out.push('[');
        if self.eat('^') {
            self.out.push('^');
        }
        // A bracket in first place is a member.
        if self.eat(']') {
            self.out.push_str(r"\]");
        }
        while let Some(c) = self.rest.next() {
            match c {
                ']' => {
                    self.out.push(']');
                    return Ok(());
                }
                '[' if self.peek() == Some(':') => self.posix_class()?,
                '\\' => self.escape(true)?,
                // A range's dash stays; every other operator of the target's classes is a member here.
                '-' => self.dash(),
                '[' | '&' | '~' => self.keep(c),
                c => self.out.push(c),
            }
        }
        Err(error("a [ has no ]"))
    }

    fn dash(&mut self) {
        let at_edge =
            self.out.ends_with('[') || self.out.ends_with("[^") || self.peek() == Some(']');
        // `--` is a set operation of the target.
        if at_edge || self.peek() == Some('-') && self.out.ends_with('-') {
            self.keep('-');
        } else {
            self.out.push('-');
        }
    }

    /// After `[` with `:` ahead: `[:name:]`, or a plain bracket if nothing closes it.
    fn posix_class(&mut self) -> Result<(), PatternError> {
        let ahead = self.rest.as_str();
        let Some(end) = ahead[1..].find(":]") else {
            self.keep('[');
            return Ok(());
        };
        let name = &ahead[1..=end];
        if !POSIX_CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(error(format!("[:{name}:] is not a class of characters")));
        }
        self.out.push('[');
        self.out.push_str(&ahead[..end + 3]);
        self.rest = ahead[end + 3..].chars();
        Ok(())
    }

    /// After `{`: a repetition if it is written as one, else a brace.
    fn repetition(&mut self) -> Result<(), PatternError> {
        let bounds = self.rest.as_str().split_once('}').map_or("", |(bounds, _)| bounds);
        let (from, to) = bounds.split_once(',').unwrap_or((bounds, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if from.is_empty() || !is_number(from) || !is_number(to) {
            self.keep('{');
            return Ok(());
        }
        let too_many = |text: &str| text.parse().is_ok_and(|count: u32| count > REPETITIONS_MAX);
        if from.len() > 4 || to.len() > 4 || too_many(from) || too_many(to) {
            return Err(error(format!("{{{bounds}}} repeats more than {REPETITIONS_MAX} times")));
        }
        self.out.push('{');
        Ok(())
    }

    /// After `(`: checks the flags, which may only be RE2's.
    fn group(&mut self) -> Result<(), PatternError> {
        self.out.push('(');
        let ahead = self.rest.as_str();
        let Some(flags) = ahead.strip_prefix('?') else { return Ok(()) };
        if flags.starts_with("P<") || flags.starts_with('<') && !is_look_behind(flags) {
            return Ok(());
        }
        let end = flags.find([':', ')']).unwrap_or(flags.len());
        match flags[..end].chars().find(|c| !matches!(c, 'i' | 'm' | 's' | 'U' | '-')) {
            None => Ok(()),
            Some('=' | '!' | '<') => Err(error("look-around is not supported")),
            Some(c) => Err(error(format!("(?{c} is not a group of RE2"))),
        }
    }
}

fn is_look_behind(flags: &str) -> bool {
    flags.starts_with("<=") || flags.starts_with("<!")
}

fn error(text: impl Into<String>) -> PatternError {
    PatternError::Syntax(text.into())
}

/// RE2's own bound on counted repetition.
const REPETITIONS_MAX: u32 = 1000;

const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];
