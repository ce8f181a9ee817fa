//! The names of types, compared across a stream of items.

/// Returns whether a value of the type named `sent` may be read as the type named `asked`, as
/// [`std::any::type_name`] names them.
///
/// They have to be the same type, apart from how a value is held: a reference, a `Box`, a `Cow`, an `Rc` or an `Arc` of a
/// type is the type itself, a `str` is a `String`, and a slice or an array is a `Vec`. They are encoded alike.
pub(crate) fn are_alike(sent: &str, asked: &str) -> bool {
    sent == asked || owned(sent) == owned(asked)
}

/// Holders of a value that is encoded as if it were alone.
const HOLDERS: [&str; 4] =
    ["alloc::boxed::Box<", "alloc::borrow::Cow<", "alloc::rc::Rc<", "alloc::sync::Arc<"];

/// Returns the name with each borrowed part replaced by its owned form.
fn owned(name: &str) -> String {
    let mut rest = name;
    let mut owned = String::with_capacity(name.len());
    // What closes each bracket that is open, in its place.
    let mut closings: Vec<&str> = Vec::new();
    while let Some(first) = rest.chars().next() {
        let after_word = owned.ends_with(|it: char| it.is_alphanumeric() || it == '_');
        let holder = HOLDERS.iter().find(|holder| !after_word && rest.starts_with(**holder));
        let (taken, replaced) = if let Some(holder) = holder {
            closings.push("");
            (holder.len(), "")
        } else if rest.starts_with("&mut ") {
            (5, "")
        } else if !after_word && is_word(rest, "str") {
            (3, "alloc::string::String")
        } else {
            match first {
                '&' => (1, ""),
                // A lifetime.
                '\'' => {
                    let end = rest.find([',', '>', ' ']).unwrap_or(rest.len());
                    (if rest[end..].starts_with(", ") { end + 2 } else { end }, "")
                }
                '[' => {
                    closings.push(">");
                    (1, "alloc::vec::Vec<")
                }
                // The length of an array.
                ';' => (rest.find(']').unwrap_or(1), ""),
                '<' => {
                    closings.push(">");
                    (1, "<")
                }
                '>' | ']' => (1, closings.pop().unwrap_or(">")),
                _ => (first.len_utf8(), &rest[..first.len_utf8()]),
            }
        };
        owned.push_str(replaced);
        rest = &rest[taken..];
    }
    owned
}

/// Returns whether `text` begins with `word` as a whole word.
fn is_word(text: &str, word: &str) -> bool {
    let rest = text.strip_prefix(word);
    rest.is_some_and(|rest| !rest.starts_with(|it: char| it.is_alphanumeric() || it == '_' || it == ':'))
}

#[cfg(test)]
mod tests {
    use std::any::type_name;
    use std::borrow::Cow;
    use std::collections::BTreeMap;
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;

    fn alike<A: ?Sized, B: ?Sized>() -> bool {
        let (there, back) =
            (are_alike(type_name::<A>(), type_name::<B>()), are_alike(type_name::<B>(), type_name::<A>()));
        assert_eq!(there, back);
        there
    }

    struct Row<'a>(#[allow(dead_code, reason = "only the name is used")] &'a str);

    #[allow(non_camel_case_types, reason = "its name begins like that of a borrowed text")]
    struct str_like;

    #[test]
    fn a_borrowed_form_is_the_same_type() {
        assert!(alike::<str, String>());
        assert!(alike::<&&str, Cow<'_, str>>());
        assert!(alike::<[&str], Vec<String>>());
        assert!(alike::<[u8; 4], Vec<u8>>());
        assert!(alike::<&[[u16; 2]; 3], Box<[Vec<u16>]>>());
        assert!(alike::<(&str, Option<&[(u8, &str)]>), (String, Option<Vec<(u8, String)>>)>());
        assert!(alike::<BTreeMap<&str, Arc<Row<'_>>>, BTreeMap<Box<str>, Rc<Row<'_>>>>());
        assert!(alike::<str_like, &mut str_like>());
    }

    #[test]
    fn other_types_are_not() {
        assert!(!alike::<u32, u64>());
        assert!(!alike::<(u32, u32), u32>());
        assert!(!alike::<str, Vec<u8>>());
        assert!(!alike::<Option<u32>, u32>());
        assert!(!alike::<Vec<u32>, Vec<i32>>());
        assert!(!alike::<str_like, String>());
        assert!(!alike::<Vec<(u8, u8)>, (Vec<u8>, u8)>());
    }
}
