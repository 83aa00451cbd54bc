package io.github.fhirext.hapi.server;

import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.provider.IJpaSystemProvider;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.provider.SubscriptionTriggeringProvider;
import ca.uhn.fhir.jpa.provider.ValueSetOperationProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.narrative2.NullNarrativeGenerator;
import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import org.springframework.boot.web.servlet.ServletRegistrationBean;
import org.springframework.context.ApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

/** The HTTP side: one RestfulServer under {@code /fhir}. */
@Configuration
class ServerConfiguration {

    @Bean
    DatabaseBackedPagingProvider paging(HapiProperties properties) {
        DatabaseBackedPagingProvider paging = new DatabaseBackedPagingProvider();
        paging.setDefaultPageSize(properties.defaultPageSize());
        paging.setMaximumPageSize(properties.maxPageSize());
        return paging;
    }

    @Bean
    RestfulServer restfulServer(
            IFhirSystemDao<?, ?> systemDao,
            IJpaSystemProvider systemProvider,
            ResourceProviderFactory resourceProviders,
            ValueSetOperationProvider valueSets,
            SubscriptionTriggeringProvider triggering,
            DatabaseBackedPagingProvider paging) {
        RestfulServer server = new RestfulServer(systemDao.getContext());
        server.getFhirContext().setNarrativeGenerator(new NullNarrativeGenerator());
        server.setDefaultResponseEncoding(EncodingEnum.JSON);
        server.setPagingProvider(paging);
        server.registerProviders(resourceProviders.createProviders());
        server.registerProviders(systemProvider, valueSets, triggering);
        return server;
    }

    @Bean
    ServletRegistrationBean<RestfulServer> fhirServlet(
            RestfulServer server,
            IFhirSystemDao<?, ?> systemDao,
            JpaStorageSettings settings,
            ISearchParamRegistry searchParameters,
            IValidationSupport validation,
            HapiProperties properties,
            ApplicationContext beans) {
        server.setServerConformanceProvider(
                new JpaCapabilityStatementProvider(server, systemDao, settings, searchParameters, validation));
        for (Class<?> interceptor : properties.customInterceptorClasses()) {
            server.registerInterceptor(beans.getBean(interceptor));
        }
        ServletRegistrationBean<RestfulServer> servlet = new ServletRegistrationBean<>(server, "/fhir/*");
        servlet.setLoadOnStartup(1);
        return servlet;
    }
}
