use std::borrow::Cow;

#[offloop::task]
fn length(text: Cow<str>) -> usize {
    text.len()
}

fn main() {}
