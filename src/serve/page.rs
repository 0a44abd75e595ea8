//! One page of a list: of tags (distribution-spec, "Listing Tags"), of repositories, of referrers.

use url::form_urlencoded;

use super::error::{ApiError, Code};

/// The requested page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PageQuery {
    /// At most this many; `None`: all.
    count: Option<usize>,
    /// Only entries after this one.
    last: Option<String>,
}

impl PageQuery {
    /// Parses a query. Other parameters are ignored.
    pub(crate) fn parse(query: Option<&str>) -> Result<PageQuery, ApiError> {
        let mut page = PageQuery::default();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*key {
                "n" => {
                    let count = value
                        .parse()
                        .map_err(|_| ApiError::new(Code::PaginationNumberInvalid, format!("n={value} is no number of entries")))?;
                    page.count = Some(count);
                }
                "last" => page.last = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(page)
    }

    /// The same page, with at most `count` entries if the client names no number.
    pub(crate) fn or(self, count: usize) -> PageQuery {
        PageQuery { count: self.count.or(Some(count)), ..self }
    }

    /// The entries of this page, and the query of the next one if there is more. Sorts by bytes first, so that pages
    /// neither overlap nor leave gaps if entries change in between. `n=0` is an empty page without a next one, as the
    /// specification says.
    pub(crate) fn cut(&self, mut all: Vec<String>) -> (Vec<String>, Option<String>) {
        all.sort_unstable();
        all.dedup();
        if let Some(last) = &self.last {
            all.retain(|one| one > last);
        }
        let Some(count) = self.count else { return (all, None) };
        let more = all.len() > count;
        all.truncate(count);
        let next = all.last().filter(|_| more).map(|last| {
            let last: String = form_urlencoded::byte_serialize(last.as_bytes()).collect();
            format!("n={count}&last={last}")
        });
        (all, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(query: &str) -> (Vec<String>, Option<String>) {
        PageQuery::parse(Some(query)).unwrap().cut(["b", "a", "d", "c", "Z"].map(str::to_owned).to_vec())
    }

    #[test]
    fn pages() {
        for (query, tags, next) in [
            ("", "Z a b c d", None),
            ("n=2", "Z a", Some("n=2&last=a")),
            ("n=2&last=a", "b c", Some("n=2&last=c")),
            ("n=2&last=c", "d", None),
            ("n=5", "Z a b c d", None),
            ("n=0", "", None),
            ("last=bb", "c d", None),
            ("last=z", "", None),
            ("n=99999999&ns=docker.io", "Z a b c d", None),
        ] {
            let (found, found_next) = cut(query);
            assert_eq!((found.join(" ").as_str(), found_next.as_deref()), (tags, next), "{query}");
        }
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        for query in ["n=", "n=-1", "n=x", "n=1.5", "n=99999999999999999999999"] {
            assert_eq!(PageQuery::parse(Some(query)).unwrap_err().code, Code::PaginationNumberInvalid, "{query}");
        }
    }

    proptest! {
        #[test]
        fn following_the_links_gives_every_tag_once(tags in proptest::collection::btree_set("[a-zA-Z0-9_][a-zA-Z0-9._-]{0,4}", 0..30), n in 1usize..8) {
            let mut query = Some(format!("n={n}"));
            let mut found = vec![];
            while let Some(this) = query {
                let (page, next) = PageQuery::parse(Some(&this)).unwrap().cut(tags.iter().cloned().collect());
                prop_assert!(page.len() <= n);
                found.extend(page);
                query = next;
            }
            prop_assert_eq!(found, tags.into_iter().collect::<Vec<_>>());
        }
    }
}
