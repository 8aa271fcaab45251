//! Sends requests as the data source does: forms, and GET where a POST is refused.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::http::{Answer, Connection, form};

/// Where and how requests are sent.
pub(super) struct Requests {
    url: String,
    method: Method,
    connection: Connection,
}

impl Requests {
    pub(super) fn new(url: &str, method: Method) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), method, connection: Connection::new() }
    }

    /// The data of an answer, with the configured method.
    pub(super) async fn ask(&self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Value> {
        Ok(self.whole(path, fields).await?["data"].take())
    }

    /// The data of an answer to a GET.
    pub(super) async fn get(&self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Value> {
        let answer = self.once(Method::GET, path, fields).await?;
        Ok(opened(path, &answer)?["data"].take())
    }

    /// A whole answer. A POST that is answered 400 or 405 is tried again as a GET.
    pub(super) async fn whole(&self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Value> {
        let mut answer = self.once(self.method.clone(), path, fields).await?;
        if self.method == Method::POST && matches!(answer.status.as_u16(), 400 | 405) {
            answer = self.once(Method::GET, path, fields).await?;
        }
        opened(path, &answer)
    }

    pub(super) async fn once(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let (url, form) = (&self.url, form(fields));
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let sent = if method == Method::POST {
            self.connection.send(method, &format!("{url}{path}"), &headers, form).await
        } else {
            self.connection.send(method, &format!("{url}{path}?{form}"), &[], Bytes::new()).await
        };
        sent.with_context(|| format!("asking {path}"))
    }
}

/// Only answers of these kinds are read as JSON.
fn opened(path: &str, answer: &Answer) -> anyhow::Result<Value> {
    let readable = answer.status.is_success() || matches!(answer.status.as_u16(), 400 | 422 | 503);
    ensure!(readable, "{path}: {} {}", answer.status, answer.text());
    let json = answer.json();
    ensure!(json["status"] == "success", "{path}: {} {}", answer.status, answer.text());
    Ok(json)
}
