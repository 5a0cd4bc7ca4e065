//! A web application in Java: a war with a page that Tomcat compiles. A hotfix replaces the war, and starts Tomcat again.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::spec::probe::{Check, HttpCheck};
use ews_deploy::Reload;

use crate::program::{Found, Program, installed};
use crate::{ask, journey, war};

const WAR: &str = "/srv/tomcat/webapps/ROOT.war";

/// One connector, one host, one application; what the command line says stands in `${}`.
const SERVER: &str = r#"<Server port="-1">
  <Service name="Catalina">
    <Connector protocol="HTTP/1.1" address="${bind}" port="${port}" maxThreads="8" minSpareThreads="2"/>
    <Engine name="Catalina" defaultHost="localhost">
      <Host name="localhost" appBase="webapps" unpackWARs="false" autoDeploy="false" workDir="${java.io.tmpdir}/work"/>
    </Engine>
  </Service>
</Server>
"#;

/// What every application has: here, pages that are compiled.
const EVERY: &str = r#"<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0">
  <servlet>
    <servlet-name>jsp</servlet-name>
    <servlet-class>org.apache.jasper.servlet.JspServlet</servlet-class>
  </servlet>
  <servlet-mapping><servlet-name>jsp</servlet-name><url-pattern>*.jsp</url-pattern></servlet-mapping>
  <welcome-file-list><welcome-file>index.jsp</welcome-file></welcome-file-list>
</web-app>
"#;

/// Nothing is looked for in the archives of Tomcat itself, which takes a third of its start.
const CONTEXT: &str = r#"<Context><JarScanner scanClassPath="false" scanManifest="false"/></Context>"#;

/// What this application says of itself.
const APPLICATION: &str =
    r#"<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0" metadata-complete="true"/>"#;

struct Tomcat {
    java: PathBuf,
    parts: Vec<PathBuf>,
}

fn found() -> Found<Arc<dyn Program>> {
    installed("/usr/share/tomcat10/bin/bootstrap.jar", "tomcat10-common")?;
    let java = installed("/usr/bin/java", "default-jre-headless")?.canonicalize().unwrap();
    let home = java.parent().unwrap().parent().unwrap();
    let mut parts = vec![java.clone(), home.join("lib"), home.join("conf"), "/usr/share/tomcat10".into()];
    // The compiler of pages, which Tomcat finds beside its own archives.
    parts.push(installed("/usr/share/java/eclipse-jdt-core.jar", "libeclipse-jdt-core-java")?);
    let archives = std::fs::read_dir("/usr/share/java").unwrap().map(|entry| entry.unwrap());
    let own = archives.filter(|entry| entry.file_name().to_string_lossy().starts_with("tomcat10-"));
    parts.extend(own.map(|entry| entry.path()));
    Ok(Arc::new(Tomcat { java, parts }))
}

#[async_trait]
impl Program for Tomcat {
    fn name(&self) -> &'static str {
        "tomcat"
    }

    fn start(&self) -> String {
        // What makes it start sooner, and take less of a small machine; then the home of its archives and that of its instance.
        let small = "-Xmx96m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData";
        let home = "/usr/share/tomcat10";
        format!(
            "exec {} {small} -Djava.io.tmpdir=\"${{TMPDIR:-/tmp}}\" -Dbind=$BIND -Dport=$PORT -Dcatalina.home={home} \
             -Dcatalina.base=\"$PWD/srv/tomcat\" -cp {home}/bin/bootstrap.jar:{home}/bin/tomcat-juli.jar \
             org.apache.catalina.startup.Bootstrap start",
            self.java.display()
        )
    }

    fn files(&self, version: &str) -> Vec<(&'static str, Vec<u8>)> {
        let page = format!("<%@ page session=\"false\" %><%= \"{version}\".toLowerCase() %>");
        vec![
            ("/srv/tomcat/conf/server.xml", SERVER.into()),
            ("/srv/tomcat/conf/web.xml", EVERY.into()),
            ("/srv/tomcat/conf/context.xml", CONTEXT.into()),
            (WAR, war::pack(&[("WEB-INF/web.xml", APPLICATION), ("index.jsp", &page)])),
        ]
    }

    fn fixed(&self) -> &'static str {
        WAR
    }

    fn reload(&self) -> Reload {
        Reload::Restart
    }

    fn parts(&self) -> Vec<PathBuf> {
        self.parts.clone()
    }

    fn check(&self) -> Check {
        Check::Http(HttpCheck::new("/"))
    }

    async fn version(&self, address: SocketAddr) -> io::Result<String> {
        ask::http(address, "tomcat.test").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_processes() {
    journey::on_processes(found()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_docker() {
    journey::on_docker(found()).await;
}
