#![deny(deprecated, missing_docs)]
//! What the compiler says of a function, it says of a task.

#[offloop::task]
#[deprecated = "use `new`"]
fn old(x: u64) -> u64 {
    x
}

#[offloop::task]
pub fn undocumented(x: u64) -> u64 {
    x
}

fn main() {
    offloop::run(old.with(1)).detach();
    old(1);
}
