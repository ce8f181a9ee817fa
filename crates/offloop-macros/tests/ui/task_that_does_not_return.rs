#[offloop::task]
fn forever() -> ! {
    loop {}
}

#[offloop::task]
fn several() -> impl Iterator<Item = u8> {
    0..3
}

fn main() {}
