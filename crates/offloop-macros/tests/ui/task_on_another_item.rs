#[offloop::task]
struct Account(u64);

trait Bank {
    #[offloop::task]
    fn open(amount: u64) -> u64;
}

#[offloop::task]
unsafe fn read(at: usize) -> u8 {
    unsafe { *(at as *const u8) }
}

fn main() {}
