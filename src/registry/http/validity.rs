//! From when to when a certificate is valid: the one field of X.509 that rustls checks only together with a chain.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};

/// DER tags (X.690): a sequence, an explicit field 0, UTCTime and GeneralizedTime.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A certificate's `notBefore` and `notAfter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    from: UnixTime,
    to: UnixTime,
}

impl Validity {
    /// Reads it out of a certificate (RFC 5280 section 4.1): Certificate { TBSCertificate { `[0]` version, serialNumber, signature,
    /// issuer, validity, … } }.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate, _) = field(certificate)?;
        let (_, mut rest, _) = field(certificate)?;
        if rest.first() == Some(&VERSION) {
            rest = field(rest)?.2;
        }
        for _ in ["serialNumber", "signature", "issuer"] {
            rest = field(rest)?.2;
        }
        let (SEQUENCE, validity, _) = field(rest)? else { return None };
        let (from_tag, from, rest) = field(validity)?;
        let (to_tag, to, _) = field(rest)?;
        Some(Validity { from: time(from_tag, from)?, to: time(to_tag, to)? })
    }

    /// Whether `now` is within.
    pub(super) fn check(self, now: UnixTime) -> Result<(), CertificateError> {
        if now.as_secs() < self.from.as_secs() {
            return Err(CertificateError::NotValidYetContext { time: now, not_before: self.from });
        }
        if now.as_secs() > self.to.as_secs() {
            return Err(CertificateError::ExpiredContext { time: now, not_after: self.to });
        }
        Ok(())
    }
}

/// The first field of `der`: its tag, its content, and what follows it.
fn field(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ 0..=0x7f => (usize::from(*short), rest),
        // The length of the length; a certificate is shorter than 16 MiB.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`; two digits of a year are 1950 to 2049 (RFC 5280 section 4.1.2.5.1).
fn time(tag: u8, text: &[u8]) -> Option<UnixTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match tag {
        UTC_TIME if text.len() == 12 => {
            let century = if text.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" };
            format!("{century}{text}")
        }
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let moment = DateTime::strptime("%Y%m%d%H%M%S", &text).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    // Before 1970 is as long ago as 1970.
    Some(UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(moment.as_second()).unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::pki_types::pem::PemObject;

    fn certificate() -> CertificateDer<'static> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/registry/http/testdata");
        CertificateDer::from_pem_file(folder.join("server.pem")).unwrap()
    }

    #[test]
    fn the_dates_of_a_certificate_are_read() {
        let validity = Validity::of(&certificate()).unwrap();
        assert!(validity.from.as_secs() > 1_700_000_000 && validity.to.as_secs() > validity.from.as_secs());
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        assert!(validity.check(validity.from).is_ok() && validity.check(validity.to).is_ok());
        assert!(matches!(validity.check(at(0)), Err(CertificateError::NotValidYetContext { .. })));
        assert!(matches!(validity.check(at(u64::MAX)), Err(CertificateError::ExpiredContext { .. })));
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        let seconds = |tag, text: &str| time(tag, text.as_bytes()).map(|time| time.as_secs());
        assert_eq!(seconds(UTC_TIME, "260301120000Z"), Some(1_772_366_400));
        assert_eq!(seconds(GENERALIZED_TIME, "20260301120000Z"), Some(1_772_366_400));
        assert_eq!(seconds(UTC_TIME, "500101000000Z"), Some(0));
        for bad in ["", "2603011200Z", "261301120000Z", "260301120000", "2603011200é0Z"] {
            assert_eq!(seconds(UTC_TIME, bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..400, byte: u8) {
            let _ = Validity::of(&CertificateDer::from(bytes));
            let mut torn = certificate().to_vec();
            let at = at % torn.len();
            torn[at] = byte;
            let _ = Validity::of(&CertificateDer::from(torn));
        }
    }
}
