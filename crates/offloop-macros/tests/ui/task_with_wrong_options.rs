#[offloop::task(nam = "other")]
fn misspelt(x: u8) -> u8 {
    x
}

#[offloop::task(crate = offloop, crate = offloop)]
fn twice(x: u8) -> u8 {
    x
}

#[offloop::task(name = "other" version = 2)]
fn without_comma(x: u8) -> u8 {
    x
}

#[offloop::task(name)]
fn without_value(x: u8) -> u8 {
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
