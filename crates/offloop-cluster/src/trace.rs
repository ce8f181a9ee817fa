//! The context of a trace, as jobs carry it: the text of the header `traceparent` of W3C's Trace Context, and after the end of
//! a line that of `tracestate`, if there is one.

/// The context of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace<'a> {
    pub(crate) parent: &'a str,
    pub(crate) state: Option<&'a str>,
}

impl<'a> Trace<'a> {
    /// Reads what a job carries. `None`: it is something else.
    pub(crate) fn of(carried: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(carried).ok()?;
        let (parent, state) = match text.split_once('\n') {
            Some((parent, state)) => (parent, Some(state.trim_end())),
            None => (text, None),
        };
        let is_hex = |part: &str| part.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = parent.split('-');
        // Version, trace, span, flags. Later versions may add more.
        for length in [2, 32, 16, 2] {
            parts.next().filter(|part| part.len() == length && is_hex(part))?;
        }
        let is_header = |text: &str| text.bytes().all(|it| (b' '..=b'~').contains(&it));
        is_header(parent)
            .then_some(Self { parent, state: state.filter(|it| !it.is_empty() && is_header(it)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_told_from_other_bytes() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(Trace::of(parent.as_bytes()), Some(Trace { parent, state: None }));
        let both = format!("{parent}\na=1,b=2");
        assert_eq!(Trace::of(both.as_bytes()), Some(Trace { parent, state: Some("a=1,b=2") }));
        let hostile = format!("{parent}\na=1\r\nNats-Msg-Id: 7");
        assert_eq!(Trace::of(hostile.as_bytes()), Some(Trace { parent, state: None }));
        for other in
            [&b""[..], b"00-1-2-01", b"\xff", parent.to_uppercase().as_bytes(), &parent.as_bytes()[1..]]
        {
            assert_eq!(Trace::of(other), None, "{other:?}");
        }
    }
}
