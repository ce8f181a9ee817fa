//! The arrays and objects that a walk is in.

use std::borrow::Cow;

/// An array or an object that the walk is in, and the member that it is at.
pub(super) enum Frame {
    Array(ArrayFrame),
    Object(ObjectFrame),
}

/// `next` is the index of the next member. So it is 0 before the first step alone.
#[derive(Default)]
pub(super) struct ArrayFrame {
    next: usize,
}

/// `key` is that of the member that the walk is at. `None` before the first step alone.
#[derive(Default)]
pub(super) struct ObjectFrame {
    key: Option<String>,
}

impl Frame {
    pub(super) fn array() -> Self {
        Self::Array(ArrayFrame::default())
    }

    pub(super) fn object() -> Self {
        Self::Object(ObjectFrame::default())
    }

    /// Returns the segment of a path for the member that the walk is at.
    pub(super) fn segment(&self) -> Cow<'_, str> {
        match self {
            Self::Array(array) => array.index().to_string().into(),
            Self::Object(object) => object.key.as_deref().unwrap_or_default().into(),
        }
    }

    /// Returns whether `segment` of a path means the member that the walk is at.
    pub(super) fn is_at(&self, segment: &str) -> bool {
        match self {
            // `segment` is compared as text, so that `00` and `+0` are no indices.
            Self::Array(array) => {
                segment.parse() == Ok(array.index()) && segment == array.index().to_string()
            }
            Self::Object(object) => object.key.as_deref() == Some(segment),
        }
    }
}

impl ArrayFrame {
    pub(super) fn is_new(&self) -> bool {
        self.next == 0
    }

    pub(super) fn advance(&mut self) {
        self.next += 1;
    }

    fn index(&self) -> usize {
        self.next.saturating_sub(1)
    }
}

impl ObjectFrame {
    pub(super) fn is_new(&self) -> bool {
        self.key.is_none()
    }

    /// Copies the key, into the memory of the one before it.
    pub(super) fn set_key(&mut self, key: &str) {
        let own = self.key.get_or_insert_default();
        own.clear();
        own.push_str(key);
    }
}
