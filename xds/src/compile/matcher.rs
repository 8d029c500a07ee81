//! Predicates of routes.

use crate::compile::headers::header_name;
use crate::fault::{Found, Problem};
use crate::snapshot::{
    HeaderMatcher, HeaderPredicate, Pattern, PatternError, QueryMatcher, QueryPredicate,
    RegexRewrite, StringMatcher,
};
use crate::view::View;

/// route.v3.HeaderMatcher.
pub(crate) fn header(view: &View<'_>) -> Result<HeaderMatcher, Found> {
    let name = header_name(view.required_text("name")?, view.at("name"))?;
    Ok(HeaderMatcher {
        name,
        predicate: header_predicate(view)?,
        invert: view.flag("invert_match"),
        missing_is_empty: view.flag("treat_missing_header_as_empty"),
    })
}

/// The condition of route.v3.HeaderMatcher, whatever the name is of.
pub(crate) fn header_predicate(view: &View<'_>) -> Result<HeaderPredicate, Found> {
    let plain = |field: &str| -> Result<Box<[u8]>, Found> {
        Ok(view.required_text(field)?.as_bytes().into())
    };
    Ok(
        match view.which(&[
            "exact_match",
            "safe_regex_match",
            "range_match",
            "present_match",
            "prefix_match",
            "suffix_match",
            "contains_match",
            "string_match",
        ]) {
            None => HeaderPredicate::Present(true),
            Some("present_match") => HeaderPredicate::Present(view.flag("present_match")),
            Some("range_match") => range(view)?,
            Some("string_match") => match view.message("string_match") {
                Some(matcher) => HeaderPredicate::String(string(&matcher)?),
                None => return Err(view.required("string_match")),
            },
            Some("safe_regex_match") => match view.message("safe_regex_match") {
                Some(regex) => HeaderPredicate::String(StringMatcher::Regex(pattern(&regex)?)),
                None => return Err(view.required("safe_regex_match")),
            },
            Some(field) => {
                let text = plain(field)?;
                let ignore_case = false;
                HeaderPredicate::String(match field {
                    "prefix_match" => StringMatcher::Prefix { text, ignore_case },
                    "suffix_match" => StringMatcher::Suffix { text, ignore_case },
                    "contains_match" => StringMatcher::Contains { text, ignore_case },
                    _ => StringMatcher::Exact { text, ignore_case },
                })
            }
        },
    )
}

fn range(view: &View<'_>) -> Result<HeaderPredicate, Found> {
    let Some(range) = view.message("range_match") else { return Err(view.required("range_match")) };
    let (start, end) = (range.i64("start"), range.i64("end"));
    if start >= end {
        return Err(view.invalid("range_match", "start must be below end"));
    }
    Ok(HeaderPredicate::Range(start..end))
}

/// route.v3.QueryParameterMatcher.
pub(crate) fn query(view: &View<'_>) -> Result<QueryMatcher, Found> {
    let name = view.required_text("name")?.as_bytes().into();
    let predicate = match view.message("string_match") {
        Some(matcher) => QueryPredicate::String(string(&matcher)?),
        None => QueryPredicate::Present(!view.has("present_match") || view.flag("present_match")),
    };
    Ok(QueryMatcher { name, predicate })
}

/// type.matcher.v3.StringMatcher.
pub(crate) fn string(view: &View<'_>) -> Result<StringMatcher, Found> {
    let ignore_case = view.flag("ignore_case");
    let field = view.required_which(
        "match_pattern",
        &["exact", "prefix", "suffix", "safe_regex", "contains"],
    )?;
    let text = || -> Box<[u8]> {
        let text = view.text(field);
        if ignore_case {
            text.to_ascii_lowercase().into_bytes().into()
        } else {
            text.as_bytes().into()
        }
    };
    if matches!(field, "prefix" | "suffix" | "contains") {
        view.required_text(field)?;
    }
    match field {
        "exact" => Ok(StringMatcher::Exact { text: text(), ignore_case }),
        "prefix" => Ok(StringMatcher::Prefix { text: text(), ignore_case }),
        "suffix" => Ok(StringMatcher::Suffix { text: text(), ignore_case }),
        "contains" => Ok(StringMatcher::Contains { text: text(), ignore_case }),
        _ => match view.message("safe_regex") {
            Some(_) if ignore_case => {
                Err(view.invalid("ignore_case", "has no effect on safe_regex; write (?i) there"))
            }
            Some(regex) => Ok(StringMatcher::Regex(pattern(&regex)?)),
            None => Err(view.required("safe_regex")),
        },
    }
}

/// type.matcher.v3.RegexMatcher.
pub(crate) fn pattern(view: &View<'_>) -> Result<Pattern, Found> {
    Pattern::new(view.required_text("regex")?).map_err(|error| complaint(view, "regex", &error))
}

/// type.matcher.v3.RegexMatchAndSubstitute.
pub(crate) fn rewrite(view: &View<'_>) -> Result<RegexRewrite, Found> {
    let Some(regex) = view.message("pattern") else { return Err(view.required("pattern")) };
    RegexRewrite::new(regex.required_text("regex")?, view.text("substitution")).map_err(|error| {
        match error {
            PatternError::Substitution(_) => complaint(view, "substitution", &error),
            error => complaint(&regex, "regex", &error),
        }
    })
}

fn complaint(view: &View<'_>, field: &str, error: &PatternError) -> Found {
    Found::new(view.at(field), Problem::Invalid(error.to_string()))
}
