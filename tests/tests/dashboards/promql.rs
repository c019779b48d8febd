//! What an expression names: metrics with their matchers, and the labels that it groups by. Whether it is an expression at
//! all is promtool's to say.

/// Functions, operators and words of the language that the rules and dashboards use.
const LANGUAGE: &[&str] = &[
    "sum",
    "max",
    "min",
    "count",
    "avg",
    "by",
    "on",
    "without",
    "ignoring",
    "group_left",
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "rate",
    "increase",
    "round",
    "ceil",
    "time",
    "absent",
    "label_replace",
    "max_over_time",
    "sort_desc",
];

/// One metric in an expression.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    /// Its name.
    pub name: String,
    /// Label, operator, value.
    pub matchers: Vec<(String, String, String)>,
}

/// Names in an expression.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Metrics, in order.
    pub selectors: Vec<Selector>,
    /// Labels of `by`, `on` and their like.
    pub grouping: Vec<String>,
    /// Labels that `label_replace` makes.
    pub made: Vec<String>,
}

/// Reads the names out of an expression.
pub fn names(expression: &str) -> Names {
    let tokens = tokens(expression);
    let mut names = Names::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        if !is_name(token) {
            continue;
        }
        let next = tokens.get(at).map_or("", String::as_str);
        if ["by", "on", "without", "ignoring", "group_left"].contains(&token.as_str()) && next == "(" {
            while let Some(label) = tokens.get(at).filter(|label| *label != ")") {
                names.grouping.extend(is_name(label).then(|| label.clone()));
                at += 1;
            }
        } else if token == "label_replace" {
            // label_replace(vector, "made", "value", "source", "regex"): the first string behind it is the label.
            let made = tokens[at..].iter().scan(0, |depth, token| {
                *depth += i32::from(token == "{") - i32::from(token == "}");
                Some((*depth, token))
            });
            let made = made.filter(|(depth, token)| *depth == 0 && token.starts_with('"')).map(|(_, token)| token);
            names.made.extend(made.take(1).map(|token| token.trim_matches('"').to_owned()));
        } else if !LANGUAGE.contains(&token.as_str()) {
            let mut selector = Selector { name: token.clone(), matchers: Vec::new() };
            if next == "{" {
                at += 1;
                while let Some([label, operator, value]) = tokens.get(at..at + 3) {
                    if !is_name(label) {
                        break;
                    }
                    let value = value.trim_matches('"').to_owned();
                    selector.matchers.push((label.clone(), operator.clone(), value));
                    at += 3 + usize::from(tokens.get(at + 3).is_some_and(|token| token == ","));
                }
            }
            names.selectors.push(selector);
        }
    }
    names
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
}

/// Names, strings with their quotes, operators, and single characters; durations go with their number.
fn tokens(expression: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first == '"' {
            rest[1..].find('"').expect("a string has an end") + 2
        } else if first.is_ascii_alphanumeric() || first == '_' || first == ':' || first == '$' {
            rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_:.$".contains(c)).unwrap_or(rest.len())
        } else if ["=~", "!~", "!=", "==", ">=", "<="].iter().any(|operator| rest.starts_with(operator)) {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    tokens
}

#[test]
fn names_of_an_expression() {
    let names = names(
        r#"max by (node) (label_replace(rate(a:b{x="1",y!~"p|q"}[5m]), "what", "c", "", "")) unless on (job) up == 0 / 5m"#,
    );
    assert_eq!(names.grouping, ["node", "job"]);
    assert_eq!(names.made, ["what"]);
    let matcher = |label: &str, operator: &str, value: &str| (label.into(), operator.into(), value.into());
    let expected = [
        Selector { name: "a:b".into(), matchers: vec![matcher("x", "=", "1"), matcher("y", "!~", "p|q")] },
        Selector { name: "up".into(), matchers: vec![] },
    ];
    assert_eq!(names.selectors, expected);
}
