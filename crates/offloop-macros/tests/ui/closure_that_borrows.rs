fn main() {
    let text = String::from("gone before the thread reads it");
    offloop::run(|| text.len()).detach();
}
