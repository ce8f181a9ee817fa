#[offloop::task]
fn first<'a>(text: &'a str) -> &'a str {
    text
}

fn main() {}
