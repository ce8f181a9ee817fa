#![deny(unused_must_use)]

fn main() {
    offloop::run(|| 42);
}
