type U = u8;

#[offloop::task]
fn seventeen(a: U, b: U, c: U, d: U, e: U, f: U, g: U, h: U, i: U, j: U, k: U, l: U, m: U, n: U, o: U, p: U, q: U) {
    let _ = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q];
}

fn main() {}
