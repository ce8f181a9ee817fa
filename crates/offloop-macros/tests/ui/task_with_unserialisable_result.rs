use std::sync::mpsc::Receiver;

struct Connection;

#[offloop::task]
fn connect(address: String) -> Result<Connection, std::io::Error> {
    let _ = address;
    Ok(Connection)
}

#[offloop::task]
fn receive() -> Receiver<u8> {
    std::sync::mpsc::channel().1
}

fn main() {}
