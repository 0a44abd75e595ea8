//! Where something is that may be a path of this machine or in object storage: `--state`, layouts, bundles, lists, reports.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

/// A path, or a place in object storage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A path, relative or absolute; `file:///mnt/share` is one too.
    Folder(PathBuf),
    /// `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`.
    Objects(ObjectUrl),
}

/// A bucket or container, and what the names of all objects in it begin with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectUrl {
    kind: ObjectKind,
    bucket: String,
    /// Without a `/` at either end; may be empty.
    prefix: String,
}

/// Whose object storage it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Google,
}

impl ObjectKind {
    /// The URL's scheme.
    pub fn scheme(self) -> &'static str {
        match self {
            ObjectKind::S3 => "s3",
            ObjectKind::Azure => "az",
            ObjectKind::Google => "gs",
        }
    }
}

impl ObjectUrl {
    /// Whose object storage it is.
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// The bucket or container.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What the names of all objects begin with, without a `/` at either end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The URL of something below this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        ObjectUrl { prefix, ..self.clone() }
    }
}

impl fmt::Display for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl Location {
    /// The scheme, if `text` begins with one: letters, digits, `+`, `-` and `.` before `://` (RFC 3986, section 3.1).
    fn scheme(text: &str) -> Option<&str> {
        let (scheme, _) = text.split_once("://")?;
        let mut bytes = scheme.bytes();
        let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
        (first && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))).then_some(scheme)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(path) => path.display().fmt(f),
            Location::Objects(url) => url.fmt(f),
        }
    }
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(scheme) = Self::scheme(text) else {
            return if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(Location::Folder(text.into())) };
        };
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "file" => None,
            "s3" => Some(ObjectKind::S3),
            "az" => Some(ObjectKind::Azure),
            "gs" => Some(ObjectKind::Google),
            _ => return Err(format!("{scheme}:// is not a place that larder knows: a path, file://, s3://, az:// or gs://")),
        };
        let url = Url::parse(text).map_err(|error| format!("{error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("{scheme}:// takes no user name or password: credentials come from the environment"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{scheme}:// takes no `?` and no `#`"));
        }
        let Some(kind) = kind else {
            let path = url.to_file_path().map_err(|()| "file:// needs an absolute path: file:///mnt/share".to_owned())?;
            return Ok(Location::Folder(path));
        };
        let bucket = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| format!("{scheme}:// needs a bucket: {scheme}://bucket/prefix"))?;
        if url.port().is_some() {
            return Err(format!("{scheme}:// takes no port: the endpoint comes from the environment"));
        }
        let path = url.path().trim_matches('/');
        if path.contains('%') || path.split('/').any(|part| (part.is_empty() && !path.is_empty()) || part == "." || part == "..") {
            return Err("its prefix must be plain names separated by `/`".to_owned());
        }
        Ok(Location::Objects(ObjectUrl { kind, bucket: bucket.to_owned(), prefix: path.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_told_apart() {
        for (text, shown) in [
            ("state", "state"),
            ("/var/lib/larder", "/var/lib/larder"),
            ("./s3:/x", "./s3:/x"),
            ("file:///mnt/share/larder", "/mnt/share/larder"),
            ("file://localhost/mnt/share", "/mnt/share"),
            ("s3://bucket", "s3://bucket"),
            ("S3://bucket/a/b/", "s3://bucket/a/b"),
            ("az://container/prefix", "az://container/prefix"),
            ("gs://bucket/prefix", "gs://bucket/prefix"),
        ] {
            assert_eq!(text.parse::<Location>().map(|location| location.to_string()), Ok(shown.to_owned()), "{text}");
        }
        assert_eq!("file:///mnt/a%20b".parse(), Ok(Location::Folder("/mnt/a b".into())));
    }

    #[test]
    fn what_is_no_place_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "it is empty"),
            ("ftp://host/x", "ftp:// is not a place that larder knows: a path, file://, s3://, az:// or gs://"),
            ("s3://", "needs a bucket"),
            ("s3:///x", "needs a bucket"),
            ("s3://bucket:9000/x", "takes no port"),
            ("s3://key:secret@bucket/x", "credentials come from the environment"),
            ("s3://bucket/x?versionId=1", "takes no `?`"),
            ("s3://bucket/a//b", "plain names"),
            ("file://host/share", "file:// needs an absolute path"),
        ] {
            let error = text.parse::<Location>().map(|location| location.to_string()).unwrap_err();
            assert!(error.contains(reason) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
