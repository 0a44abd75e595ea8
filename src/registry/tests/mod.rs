//! The room against a scripted registry on a socket: what is sent, in which order, how often.

mod blobs;
mod catalog;
mod limits;
mod manifests;
mod referrers;
mod tags;
mod tls;
mod transport;
mod uploads;
