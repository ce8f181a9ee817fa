struct Account(u64);

impl Account {
    #[offloop::task]
    fn open(amount: u64) -> Account {
        Account(amount)
    }

    #[offloop::task]
    fn like(other: Self) -> u64 {
        other.0
    }
}

fn main() {}
