//! The login to etcd, one for all calls.

use tokio::sync::Mutex;
use tonic::Status;
use tonic::transport::Channel;

use super::fault::AUTH_NOT_ENABLED;
use super::rotation::Connection;
use super::token::Token;
use super::{Error, Fault, Host, Login, Refusal};
use crate::proto::etcd::etcdserverpb::AuthenticateRequest;
use crate::proto::etcd::etcdserverpb::auth_client::AuthClient;

/// One token for all calls.
pub(super) struct Tokens {
    login: Option<Login>,
    /// Held while logging in, so that one login is for all callers.
    token: Mutex<Option<Token>>,
}

impl Tokens {
    pub(super) fn new(login: Option<Login>) -> Self {
        Self {
            login,
            token: Mutex::new(None),
        }
    }

    /// The token, if it is known at present.
    pub(super) fn known(&self) -> Token {
        let token = self.token.try_lock().ok();
        let token = token.and_then(|token| token.clone());
        token.unwrap_or_default()
    }

    /// The token; if there is none, the user logs in.
    pub(super) async fn token(&self, connection: &Connection) -> Result<Token, Fault> {
        let Some(login) = &self.login else {
            return Ok(Token::default());
        };
        let mut token = self.token.lock().await;
        if let Some(token) = &*token {
            return Ok(token.clone());
        }
        let fresh = login.at(&connection.channel, &connection.host).await?;
        Ok(token.insert(fresh).clone())
    }

    /// A token that this member certainly knows. Other members know it once they have applied the login in their log,
    /// and a restarted member knows none from before.
    pub(super) async fn token_at(&self, channel: &Channel, host: &Host) -> Result<Token, Fault> {
        match &self.login {
            Some(login) => login.at(channel, host).await,
            None => Ok(Token::default()),
        }
    }

    /// Forgets a refused token, unless another one has taken its place; `false` if no other can be had.
    pub(super) async fn refused(&self, refused: &Token) -> bool {
        let mut token = self.token.lock().await;
        if token.as_ref().is_some_and(|token| token.0 == refused.0) {
            *token = None;
        }
        self.login.is_some()
    }
}

impl Login {
    async fn at(&self, channel: &Channel, host: &Host) -> Result<Token, Fault> {
        let request = AuthenticateRequest {
            name: self.user.clone(),
            password: self.password.clone(),
        };
        let mut client = AuthClient::new(channel.clone());
        match client.authenticate(request).await {
            Ok(answer) => {
                let value = answer.into_inner().token.parse();
                Ok(Token(Some(value.map_err(|_| not_text(host))?)))
            }
            Err(status) => no_token(&status, host),
        }
    }
}

/// Handles a failed login, which is right only if authentication is disabled. Once it is enabled, etcd refuses a
/// request without a token.
fn no_token(status: &Status, host: &Host) -> Result<Token, Fault> {
    if status.message() == AUTH_NOT_ENABLED {
        return Ok(Token::default());
    }
    Err(Fault::new(status, host).before_sending())
}

fn not_text(host: &Host) -> Fault {
    Fault {
        error: Error {
            outcome: super::Outcome::Definite(Refusal::NotLoggedIn),
            endpoint: Some(host.clone()),
            code: None,
            message: "the token is not a valid header value".to_owned(),
        },
        leave: false,
        unsent: true,
        token: false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Options;
    use super::*;

    /// The user has logged in once more.
    pub fn know_token(tokens: &Tokens, number: u32) {
        let value = number.to_string().parse().expect("it is text");
        *tokens.token.try_lock().expect("nobody logs in") = Some(Token(Some(value)));
    }

    /// A login may fail only if authentication is disabled.
    #[test]
    fn a_login_that_is_refused_is_a_fault() {
        let options = Options::new(&"etcd://one".parse().expect("an address"));
        let host = &options.endpoints[0];
        let status = Status::failed_precondition(AUTH_NOT_ENABLED);
        assert!(no_token(&status, host).is_ok_and(|token| token.0.is_none()));
        let status = Status::invalid_argument(
            "etcdserver: authentication failed, invalid user ID or password",
        );
        assert!(no_token(&status, host).is_err_and(|fault| fault.unsent));
    }
}
