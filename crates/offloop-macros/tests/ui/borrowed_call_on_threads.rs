#[offloop::task]
fn length(text: &str) -> usize {
    text.len()
}

fn main() {
    let text = String::from("gone before the thread reads it");
    offloop::run(length.with(&text)).detach();
}
