package io.github.fhirext.hapi.server;

import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.autoconfigure.ImportAutoConfiguration;
import org.springframework.boot.autoconfigure.context.PropertyPlaceholderAutoConfiguration;
import org.springframework.boot.autoconfigure.jdbc.DataSourceAutoConfiguration;
import org.springframework.boot.autoconfigure.web.embedded.EmbeddedWebServerFactoryCustomizerAutoConfiguration;
import org.springframework.boot.autoconfigure.web.servlet.ServletWebServerFactoryAutoConfiguration;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.ComponentScan;
import org.springframework.context.annotation.Import;

/**
 * A HAPI FHIR R4 JPA server with rest-hook subscriptions, for machines without a container engine.
 *
 * <p>It reads the same configuration file as the official docker image (docker/hapi/application.yaml)
 * and understands the part of it that {@link HapiProperties} names. Auto-configurations are imported
 * one by one: with all of them, Spring Boot would start what HAPI's many libraries bring along.
 */
@SpringBootConfiguration
@ImportAutoConfiguration({
    PropertyPlaceholderAutoConfiguration.class,
    DataSourceAutoConfiguration.class,
    // Without it `server.tomcat.relaxed-query-chars` is ignored and a bare `|` in a URL is refused.
    EmbeddedWebServerFactoryCustomizerAutoConfiguration.class,
    ServletWebServerFactoryAutoConfiguration.class
})
@EnableConfigurationProperties(HapiProperties.class)
@ComponentScan("${hapi.fhir.custom-bean-packages}")
@Import({
    JpaR4Config.class,
    ThreadPoolFactoryConfig.class,
    JpaBatch2Config.class,
    Batch2JobsConfig.class,
    JpaConfiguration.class,
    SubscriptionConfiguration.class,
    ServerConfiguration.class
})
public class HapiLocal {

    public static void main(String[] args) {
        SpringApplication.run(HapiLocal.class, args);
    }
}
