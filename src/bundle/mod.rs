//! Across an air gap: what a store holds ([`inventory`]), and what is carried.

pub mod inventory;
