//! `/metrics`: the counters of a server, for Prometheus.

use super::traffic::ByteMeter;
use crate::report::openmetrics::{Exposition, MetricKind};

/// The values of `meter` in OpenMetrics.
pub(super) fn text(meter: &ByteMeter) -> String {
    let mut text = Exposition::default();
    let requests = meter.requests();
    let statuses: Vec<(&str, String, u64)> = requests.iter().map(|((route, status), n)| (*route, status.to_string(), *n)).collect();
    let samples = statuses.iter().map(|(route, status, n)| (vec![("route", *route), ("status", status.as_str())], *n));
    text.family("serve_requests", MetricKind::Counter, "Requests answered, by what was asked for and the status.", samples);
    text.single("serve_blob_bytes", MetricKind::Counter, "Bytes of blobs handed to the network.", meter.read().blob_bytes);
    text.single("serve_connections", MetricKind::Gauge, "Connections open now.", meter.open());
    let refused = meter.turned_away();
    text.single("serve_refused_connections", MetricKind::Counter, "Connections for which there was no place.", refused);
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::report::openmetrics::strict;

    #[test]
    fn what_was_counted_is_told() {
        let meter = Arc::new(ByteMeter::default());
        for (route, status) in [("manifest", 200), ("manifest", 404), ("blob", 200), ("manifest", 200)] {
            meter.answered(route, status);
        }
        meter.add_bytes(4096);
        meter.turn_away();
        let (one, two) = (meter.connected(), meter.connected());
        drop(one);
        let text = text(&meter);
        strict::parse(&text).unwrap();
        insta::assert_snapshot!(text, @r#"
        # TYPE larder_serve_requests counter
        # HELP larder_serve_requests Requests answered, by what was asked for and the status.
        larder_serve_requests_total{route="blob",status="200"} 1
        larder_serve_requests_total{route="manifest",status="200"} 2
        larder_serve_requests_total{route="manifest",status="404"} 1
        # TYPE larder_serve_blob_bytes counter
        # HELP larder_serve_blob_bytes Bytes of blobs handed to the network.
        larder_serve_blob_bytes_total 4096
        # TYPE larder_serve_connections gauge
        # HELP larder_serve_connections Connections open now.
        larder_serve_connections 1
        # TYPE larder_serve_refused_connections counter
        # HELP larder_serve_refused_connections Connections for which there was no place.
        larder_serve_refused_connections_total 1
        # EOF
        "#);
        drop(two);
        assert_eq!(meter.open(), 0);
    }
}
