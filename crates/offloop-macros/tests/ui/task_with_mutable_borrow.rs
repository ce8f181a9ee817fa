#[offloop::task]
fn sort(items: &mut Vec<u64>) {
    items.sort();
}

fn main() {}
