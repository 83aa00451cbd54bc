package io.github.fhirext.hapi.server;

import ca.uhn.fhir.jpa.api.config.JpaStorageSettings.ClientIdStrategyEnum;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings.IdStrategyEnum;
import java.util.List;
import org.springframework.boot.context.properties.ConfigurationProperties;

/** The keys of {@code hapi.fhir} that this server understands; names as in the official image. */
@ConfigurationProperties("hapi.fhir")
record HapiProperties(
        boolean allowExternalReferences,
        boolean allowMultipleDelete,
        boolean enforceReferentialIntegrityOnWrite,
        boolean enforceReferentialIntegrityOnDelete,
        boolean expungeEnabled,
        boolean deleteExpungeEnabled,
        boolean preExpandValueSets,
        boolean enableTaskPreExpandValueSets,
        ClientIdStrategyEnum clientIdStrategy,
        IdStrategyEnum serverIdStrategy,
        long reuseCachedSearchResultsMillis,
        int defaultPageSize,
        int maxPageSize,
        Subscriptions subscription,
        List<Class<?>> customInterceptorClasses) {

    record Subscriptions(boolean resthookEnabled, long pollingIntervalMs) {}
}
