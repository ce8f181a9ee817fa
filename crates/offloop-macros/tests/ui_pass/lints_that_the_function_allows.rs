//! What a function allows holds for all that is made of it.

#![deny(warnings)]

mod old {
    #[deprecated]
    #[derive(Debug)]
    pub struct Never;
}

#[offloop::task]
#[allow(deprecated)]
pub fn takes_old(_: std::marker::PhantomData<old::Never>) -> u8 {
    1
}

#[offloop::task]
#[expect(deprecated, reason = "it is kept for old clients")]
pub fn makes_old() -> Vec<std::marker::PhantomData<old::Never>> {
    vec![std::marker::PhantomData]
}

fn main() {
    assert_eq!(offloop::run(makes_old.with()).wait().unwrap().len(), 1);
}
