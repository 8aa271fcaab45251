//! What the configuration file may say.

use std::path::Path;
use std::time::Duration;

use super::*;

const GOOD: &str = r#"
global:
  smtp_smarthost: smtp.example.org:587
  smtp_from: Tributary <alerts@example.org>
  smtp_auth_username: alerts
  smtp_auth_password_file: secret
  smtp_tls_config: { ca_file: ca.pem }
route:
  receiver: team
  group_by: [alertname, cluster]
  routes:
    - match: { severity: page }
      match_re: { cluster: eu-.* }
      matchers: ['team = "a"']
      receiver: oncall
      group_wait: 10s
      group_by: ['...']
      continue: true
    - matchers: [severity=info]
      receiver: nobody
receivers:
  - name: team
    email_configs:
      - to: 'a@example.org, B <b@example.org>'
        send_resolved: true
        headers: { Subject: Fire, Reply-To: desk@example.org }
  - name: oncall
    email_configs:
      - to: c@example.org
        smarthost: '[::1]:465'
        auth_password: other
        tls_config: { server_name: mail, insecure_skip_verify: true }
      - to: d@example.org
        smarthost: localhost:25
        auth_username: ''
        require_tls: false
  - name: nobody
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("alertmanager.yml", Path::new("/etc/t"), text).map_err(|e| e.to_string())
}

#[test]
fn reads_the_route_tree() {
    let config = parse(GOOD).unwrap();
    let root = &config.route;
    assert_eq!((root.receiver.as_str(), root.key.as_str()), ("team", "{}"));
    assert_eq!(root.timing.repeat_interval, Duration::from_secs(4 * 3600));
    let page = &root.routes[0];
    assert_eq!(page.key, r#"{}/{cluster=~"eu-.*",severity="page",team="a"}"#);
    assert_eq!(page.timing.group_wait, Duration::from_secs(10));
    assert_eq!(page.timing.group_interval, Duration::from_secs(300));
    assert!(page.goes_on && page.group_by == super::super::route::GroupBy::Everything);
    assert_eq!(root.routes[1].group_by, root.group_by);
}

#[test]
fn reads_mail_settings() {
    let config = parse(GOOD).unwrap();
    let team = &config.receivers["team"][0];
    assert_eq!(team.to.len(), 2);
    assert_eq!(
        (team.host.as_str(), team.port, team.security),
        ("smtp.example.org", 587, Security::StartTls)
    );
    assert_eq!(team.tls.ca_file.as_deref(), Some(Path::new("/etc/t/ca.pem")));
    assert_eq!(team.subject.as_deref(), Some("Fire"));
    assert_eq!(team.headers["Reply-To"], "desk@example.org");
    assert!(team.send_resolved);
    let Some(Login { password: Password::File(file), .. }) = &team.login else { panic!() };
    assert_eq!(file, Path::new("/etc/t/secret"));
    let oncall = &config.receivers["oncall"];
    assert_eq!((oncall[0].host.as_str(), oncall[0].security), ("::1", Security::Implicit));
    assert!(oncall[0].tls.insecure_skip_verify && !oncall[0].send_resolved);
    assert_eq!(format!("{:?}", oncall[0].login.as_ref().unwrap().password), "Given(<secret>)");
    assert_eq!(oncall[1].security, Security::Plain);
    assert!(oncall[1].login.is_none());
    assert!(config.receivers["nobody"].is_empty());
}

#[test]
fn faults_name_their_place() {
    let base = "route: {receiver: a}\nreceivers: [{name: a}]\n";
    let mail = |more: &str| {
        format!(
            "route: {{receiver: a}}\nreceivers:\n- name: a\n  email_configs:\n  - to: x@y.org\n{more}"
        )
    };
    let server = "    from: a@b.org\n    smarthost: h:25\n";
    for (text, expected) in [
        ("receivers: []\n".to_owned(), "the file has no route"),
        (
            format!("{base}inhibit_rules: []\n"),
            "\"inhibit_rules\" is not supported yet\n  --> alertmanager.yml:3:1",
        ),
        (
            format!("{base}inhibit_rulez: []\n"),
            "unknown key \"inhibit_rulez\"\n  --> alertmanager.yml:3:1",
        ),
        (
            "route: {receiver: b}\nreceivers: [{name: a}]\n".into(),
            "receiver \"b\" is not defined\n  --> alertmanager.yml:1:19",
        ),
        (
            "route:\n  receiver: a\n  group_wait: 5x\nreceivers: [{name: a}]\n".into(),
            "alertmanager.yml:3:15",
        ),
        (
            "route:\n  receiver: a\n  group_interval: 0s\nreceivers: [{name: a}]\n".into(),
            "group_interval must not be zero",
        ),
        (
            "route:\n  receiver: a\n  matchers: [a=b]\nreceivers: [{name: a}]\n".into(),
            "the root route must not have matchers",
        ),
        (
            "route:\n  receiver: a\n  routes:\n  - matchers: ['a=~(']\nreceivers: [{name: a}]\n"
                .into(),
            "alertmanager.yml:4:16",
        ),
        ("route: {receiver: a}\nreceivers: [{name: a}, {name: a}]\n".into(), "defined twice"),
        (
            "route: {receiver: a}\nreceivers:\n- name: a\n  webhook_configs: []\n".into(),
            "\"webhook_configs\" is not supported yet",
        ),
        (mail(""), "no mail server is given"),
        (mail("    smarthost: h:25\n"), "no sender is given"),
        (mail("    smarthost: h\n    from: a@b.org\n"), "written as host:port"),
        (mail("    smarthost: h:25\n    from: a@b.org, c@d.org\n"), "must be one address"),
        (mail(&format!("{server}    auth_username: u\n")), "a user is given without a password"),
        (
            mail(&format!(
                "{server}    auth_username: u\n    auth_password: p\n    require_tls: false\n"
            )),
            "in clear text",
        ),
        (
            mail(&format!(
                "{server}    auth_username: u\n    auth_password: p\n    auth_password_file: f\n"
            )),
            "given twice",
        ),
        (
            mail(&format!("{server}    headers: {{Bcc: e@evil.org}}\n")),
            "the header \"Bcc\" is made by Tributary",
        ),
        (mail(&format!("{server}    headers: {{'X Y': z}}\n")), "is not a header's name"),
        (
            mail(&format!("{server}    html: '{{{{ template \"x\" . }}}}'\n")),
            "templates are not supported here yet",
        ),
        (mail(&format!("{server}    hello: \"a\\r\\nMAIL\"\n")), "is not a host name"),
        (mail("    smarthost: h:25\n    from: nobody\n"), "is not a mail address"),
    ] {
        let message = parse(&text).unwrap_err();
        assert!(message.contains(expected), "{text}\ngave {message}\nwanted {expected}");
    }
}
