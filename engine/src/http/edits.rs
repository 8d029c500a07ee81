//! Header edits of a route, worked out for one message (contract section 6).
//!
//! Edits apply one after the other to the message's headers. Instead of rebuilding a header map,
//! the outcome is computed: which names of the message are dropped, and which additions remain.
//! Memory is reused from message to message.

use outrigger_xds::snapshot::{AppendAction, HeaderOp};

/// The outcome of a list of edits for the message it was worked out for last.
#[derive(Debug, Default)]
pub struct EditOutcome {
    bytes: Vec<u8>,
    /// Parallel to the edits.
    states: Vec<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    start: u32,
    end: u32,
    /// The edit changed something.
    took_effect: bool,
    /// What it added is still there at the end.
    remains: bool,
}

impl EditOutcome {
    /// Works out `ops`. `has` tells whether the message has a header, `render` writes a value.
    pub fn work_out(
        &mut self,
        ops: &[HeaderOp],
        has: impl Fn(&str) -> bool,
        mut render: impl FnMut(&HeaderOp, &mut Vec<u8>),
    ) {
        self.bytes.clear();
        self.states.clear();
        for (index, op) in ops.iter().enumerate() {
            let start = self.bytes.len();
            let exists = self.exists(ops, index, name(op), &has);
            let (took_effect, replaces) = match op {
                HeaderOp::Remove(_) => (true, true),
                HeaderOp::Set { action, keep_empty_value, .. } => {
                    render(op, &mut self.bytes);
                    let given = *keep_empty_value || self.bytes.len() > start;
                    match action {
                        AppendAction::AppendIfExistsOrAdd => (given, false),
                        AppendAction::AddIfAbsent => (given && !exists, false),
                        AppendAction::OverwriteIfExistsOrAdd => (given, true),
                        AppendAction::OverwriteIfExists => (given && exists, true),
                    }
                }
            };
            if took_effect && replaces {
                for (earlier, state) in ops.iter().zip(&mut self.states) {
                    state.remains &= name(earlier) != name(op);
                }
            }
            self.states.push(State {
                start: start as u32,
                end: self.bytes.len() as u32,
                took_effect,
                remains: took_effect && matches!(op, HeaderOp::Set { .. }),
            });
        }
    }

    /// Whether the message's own headers called `name` (any case) are dropped.
    pub fn drops(&self, ops: &[HeaderOp], header: &str) -> bool {
        ops.iter().zip(&self.states).any(|(op, state)| {
            state.took_effect && replaces(op) && name(op).eq_ignore_ascii_case(header)
        })
    }

    /// What is added: names in lower case, and values.
    pub fn additions<'a>(
        &'a self,
        ops: &'a [HeaderOp],
    ) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        ops.iter()
            .zip(&self.states)
            .filter(|(_, state)| state.remains)
            .map(|(op, state)| (name(op), &self.bytes[state.start as usize..state.end as usize]))
    }

    fn exists(
        &self,
        ops: &[HeaderOp],
        before: usize,
        header: &str,
        has: &impl Fn(&str) -> bool,
    ) -> bool {
        let decided = (0..before)
            .rev()
            .find(|index| self.states[*index].took_effect && name(&ops[*index]) == header);
        match decided {
            Some(index) => matches!(ops[index], HeaderOp::Set { .. }),
            None => has(header),
        }
    }
}

fn name(op: &HeaderOp) -> &str {
    match op {
        HeaderOp::Remove(name) | HeaderOp::Set { name, .. } => name,
    }
}

fn replaces(op: &HeaderOp) -> bool {
    match op {
        HeaderOp::Remove(_) => true,
        HeaderOp::Set { action, .. } => {
            matches!(action, AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists)
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_xds::snapshot::{HeaderName, Op, Template};
    use proptest::prelude::*;

    use super::*;

    fn remove(name: &str) -> HeaderOp {
        HeaderOp::Remove(HeaderName::new(name))
    }

    fn set(name: &str, value: &str, action: AppendAction, keep: bool) -> HeaderOp {
        let ops: Box<[Op]> =
            if value.is_empty() { Box::new([]) } else { Box::new([Op::Literal(value.into())]) };
        HeaderOp::Set {
            name: HeaderName::new(name),
            value: Template { ops },
            action,
            keep_empty_value: keep,
        }
    }

    fn literal(op: &HeaderOp, out: &mut Vec<u8>) {
        if let HeaderOp::Set { value, .. } = op {
            out.extend_from_slice(value.as_literal().unwrap_or("").as_bytes());
        }
    }

    type Headers = Vec<(String, String)>;

    /// What the outcome makes of `headers`.
    fn outcome(ops: &[HeaderOp], headers: &Headers) -> Headers {
        let mut edits = EditOutcome::default();
        edits.work_out(ops, |name| headers.iter().any(|(known, _)| known == name), literal);
        let kept = headers.iter().filter(|(name, _)| !edits.drops(ops, name)).cloned();
        let added = edits
            .additions(ops)
            .map(|(name, value)| (name.to_owned(), String::from_utf8(value.to_vec()).unwrap()));
        kept.chain(added).collect()
    }

    /// The definition: a map, edited one operation after the other.
    fn model(ops: &[HeaderOp], headers: &Headers) -> Headers {
        let mut map = headers.clone();
        for op in ops {
            match op {
                HeaderOp::Remove(gone) => map.retain(|(name, _)| **name != **gone),
                HeaderOp::Set { name, value, action, keep_empty_value } => {
                    let value = value.as_literal().unwrap().to_owned();
                    if value.is_empty() && !keep_empty_value {
                        continue;
                    }
                    let exists = map.iter().any(|(known, _)| **known == **name);
                    let overwrite = match action {
                        AppendAction::AppendIfExistsOrAdd => false,
                        AppendAction::AddIfAbsent if exists => continue,
                        AppendAction::OverwriteIfExists if !exists => continue,
                        AppendAction::AddIfAbsent => false,
                        _ => true,
                    };
                    if overwrite {
                        map.retain(|(known, _)| **known != **name);
                    }
                    map.push((name.to_string(), value));
                }
            }
        }
        map
    }

    fn any_op() -> impl Strategy<Value = HeaderOp> {
        let action = prop_oneof![
            Just(AppendAction::AppendIfExistsOrAdd),
            Just(AppendAction::AddIfAbsent),
            Just(AppendAction::OverwriteIfExistsOrAdd),
            Just(AppendAction::OverwriteIfExists),
        ];
        prop_oneof![
            "[abc]".prop_map(|name| remove(&name)),
            ("[abc]", "[xyz]{0,1}", action, any::<bool>())
                .prop_map(|(name, value, action, keep)| set(&name, &value, action, keep)),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(
            ops in proptest::collection::vec(any_op(), 0..8),
            headers in proptest::collection::vec(("[abcd]", "[0-9]"), 0..5),
        ) {
            let mut expected = model(&ops, &headers);
            let mut found = outcome(&ops, &headers);
            // The order of different names is of no meaning.
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            found.sort_by(|one, other| one.0.cmp(&other.0));
            prop_assert_eq!(found, expected);
        }
    }
}
