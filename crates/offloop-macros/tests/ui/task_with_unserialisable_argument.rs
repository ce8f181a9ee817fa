struct Connection;

#[offloop::task]
fn query(connection: Connection) -> u64 {
    let _ = connection;
    0
}

fn main() {}
