//! The report as one self-contained page: no file beside it, no request to anywhere.

use super::Report;

const PAGE: &str = include_str!("page.html");
const DATA: &str = "/*DATA*/";

/// The page.
///
/// # Errors
///
/// What serialisation says; a report holds nothing that it refuses.
pub fn render(report: &Report) -> Result<String, serde_json::Error> {
    // "<" ends a script early if it begins "</script"; escaped it means the same to JavaScript.
    let data = serde_json::to_string(report)?.replace('<', "\\u003c");
    Ok(PAGE.replacen(DATA, &data, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{case, report};

    #[test]
    fn holds_the_data_and_nothing_external() {
        let mut report = report(vec![case("floor", 1, 128, 1.0, Some(1.0), 1.0)]);
        report.machine.command = "</script><b>".to_owned();
        let page = render(&report).unwrap();
        assert!(page.contains("\"target\":\"floor\""));
        assert!(!page.contains(DATA) && !page.contains("</script><b>"));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
    }
}
