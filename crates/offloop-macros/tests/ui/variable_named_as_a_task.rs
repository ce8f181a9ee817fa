#[offloop::task]
fn total(items: Vec<u64>) -> u64 {
    // In here it is a function, of which a variable may have the name.
    let total = items.iter().sum();
    total
}

fn main() {
    let total = 3;
    println!("{total}");
}
