#[offloop::task(name = "")]
fn nameless(x: u8) -> u8 {
    x
}

#[offloop::task(name = "billing invoice")]
fn with_a_space(x: u8) -> u8 {
    x
}

#[offloop::task(name = billing::invoice)]
fn a_path(x: u8) -> u8 {
    x
}

#[offloop::task(name = "first", name = "second")]
fn with_two_names(x: u8) -> u8 {
    x
}

#[offloop::task(version = "2")]
fn with_a_text_for_a_version(x: u8) -> u8 {
    x
}

#[offloop::task(version = 0)]
fn of_version_zero(x: u8) -> u8 {
    x
}

#[offloop::task(version = 4294967296)]
fn of_too_high_a_version(x: u8) -> u8 {
    x
}

fn main() {}
