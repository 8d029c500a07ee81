//! Regular expressions mean what RE2 means by them.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

use outrigger_xds::snapshot::{Pattern, PatternError, RegexRewrite};

#[test]
fn matches_are_of_the_whole_text_and_as_re2_defines_them() {
    for (source, hits, misses) in [
        ("a|ab", &["a", "ab"][..], &["abc", "", "b"][..]),
        ("/v[0-9]+/.*", &["/v1/", "/v12/x"], &["/v/", "x/v1/", "/v1/\n"]),
        ("(?s)/.*", &["/\n"], &["x"]),
        ("(?i)abc", &["ABC", "aBc"], &["abcd"]),
        (r"\d+", &["12"], &["١٢", ""]),
        (r"\w+", &["a_1"], &["é", "a-b"]),
        (r"\s", &[" ", "\t"], &["\u{a0}", "\u{b}"]),
        (r"[\d.]+", &["1.2"], &["a"]),
        (r"[^\d]", &["a", "é"], &["1"]),
        (r"[\D5]", &["a", "5"], &["1"]),
        (r"a\bb|a\b-b", &["a-b"], &["ab"]),
        (r"\Qa.b*\E+", &["a.b*", "a.b**"], &["axb"]),
        (r"\Qa.b", &["a.b"], &["axb"]),
        (r"\x41\x{42}\103\0", &["ABC\0"], &["abc"]),
        (r"\/\-\<\>\_\:", &["/-<>_:"], &["x"]),
        (r"\pL\p{Greek}\PN", &["aαx"], &["1αx", "aα1"]),
        ("é.", &["éa", "éé"], &["é"]),
        (r"\C\C", &["é", "ab"], &["a"]),
        // Brackets: no nesting and no set operations.
        ("[[a]", &["[", "a"], &["b"]),
        ("[]a]", &["]", "a"], &["b"]),
        ("[^]a]", &["b"], &["]", "a"]),
        ("[a&&b]", &["a", "&", "b"], &["c"]),
        ("[a~~b]", &["~"], &["c"]),
        ("[a-c-]", &["b", "-"], &["d"]),
        ("[-a]", &["-", "a"], &["b"]),
        ("[[:alpha:]_]", &["a", "_"], &["1"]),
        ("[[:^alpha:]]", &["1"], &["a"]),
        ("[[:]", &["[", ":"], &["a"]),
        // Braces that are no repetition.
        ("/x/{id}", &["/x/{id}"], &["/x/1"]),
        ("a{,3}", &["a{,3}"], &["aaa"]),
        ("a{2,}", &["aaa"], &["a"]),
        ("a{2}", &["aa"], &["aaa"]),
        ("(?P<n>a)(?<m>b)(?:c)", &["abc"], &["ab"]),
        ("(?U)a+", &["aaa"], &[""]),
        ("^a$", &["a"], &["a\n", "ba"]),
        ("(?m)a$\n^b", &["a\nb"], &["a"]),
        ("", &[""], &["a"]),
    ] {
        let pattern = Pattern::new(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        for text in hits {
            assert!(pattern.matches(text.as_bytes()), "{source} should match {text:?}");
        }
        for text in misses {
            assert!(!pattern.matches(text.as_bytes()), "{source} should not match {text:?}");
        }
    }
}

#[test]
fn what_re2_does_not_have_is_refused() {
    for source in [
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        r"(a)\1",
        r"\8",
        "(?x) a",
        "(?R)a",
        "(?u)a",
        r"\uABCD",
        r"\h",
        r"\Z",
        r"\K",
        "a{1001}",
        "a{1,1001}",
        r"[\b]",
        r"[\Q]",
        "*a",
        "a)",
        "(a",
        "[z-a]",
        "[[:nope:]]",
        r"\p{Nope}",
        r"\x{110000}",
        r"\x4",
        r"\xzz",
        "(?P<1>a)",
        "\\",
    ] {
        let error = Pattern::new(source).err();
        assert!(matches!(error, Some(PatternError::Syntax(_))), "{source}: {error:?}");
    }
    assert_eq!(Pattern::new("((a{100}){100}){100}").err(), Some(PatternError::TooLarge));
}

#[test]
fn an_expression_whose_automaton_is_too_large_matches_all_the_same() {
    // A complete automaton for this has 2^20 states.
    let pattern = Pattern::new("(?s).*a.{20}").unwrap();
    assert!(pattern.matches(b"xxa01234567890123456789"));
    assert!(!pattern.matches(b"xxb01234567890123456789"));
}

#[test]
fn a_hostile_expression_takes_linear_time() {
    let pattern = Pattern::new("(a*)*b|(a|aa)+c").unwrap();
    assert!(!pattern.matches(&[b'a'; 100_000]));
}

#[test]
fn rewrites_replace_every_match() {
    let rewrite = |pattern: &str, substitution: &str, text: &str| {
        let rewrite = RegexRewrite::new(pattern, substitution).unwrap();
        let mut out = Vec::new();
        rewrite.rewrite_into(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        rewrite("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api"),
        "/v1/api/instance/foo"
    );
    assert_eq!(rewrite("one", "two", "/xxx/one/yyy/one/zzz"), "/xxx/two/yyy/two/zzz");
    assert_eq!(
        rewrite("^(.*?)one(.*)$", r"\1two\2", "/xxx/one/yyy/one/zzz"),
        "/xxx/two/yyy/one/zzz"
    );
    assert_eq!(rewrite("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb"), "/aaa/yyy/bbb");
    assert_eq!(rewrite("b", r"[\0]\\", "abc"), r"a[b]\c");
    assert_eq!(rewrite("x", "y", "abc"), "abc");
    assert_eq!(rewrite("(a)|(b)", r"<\1\2>", "ab"), "<a><b>");
    assert_eq!(rewrite("é", "e", "éa"), "ea");
}
