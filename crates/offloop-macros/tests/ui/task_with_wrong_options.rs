#[offloop::task(name = "other")]
fn named(x: u8) -> u8 {
    x
}

#[offloop::task(crate = offloop, crate = offloop)]
fn twice(x: u8) -> u8 {
    x
}

#[offloop::task(crate = "")]
fn empty(x: u8) -> u8 {
    x
}

#[offloop::task(crate = no_such_crate)]
fn nowhere(x: u8) -> u8 {
    x
}

fn main() {}
