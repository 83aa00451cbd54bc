package io.github.fhirext.hapi.server;

import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.jpa.api.IDaoRegistry;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.binary.api.IBinaryStorageSvc;
import ca.uhn.fhir.jpa.binstore.DatabaseBinaryContentStorageSvcImpl;
import ca.uhn.fhir.jpa.config.HibernatePropertiesProvider;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.config.util.ResourceCountCacheUtil;
import ca.uhn.fhir.jpa.dao.FulltextSearchSvcImpl;
import ca.uhn.fhir.jpa.dao.IFulltextSearchSvc;
import ca.uhn.fhir.jpa.dao.search.HSearchSortHelperImpl;
import ca.uhn.fhir.jpa.dao.search.IHSearchSortHelper;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.provider.DaoRegistryResourceSupportedSvc;
import ca.uhn.fhir.jpa.search.IStaleSearchDeletingSvc;
import ca.uhn.fhir.jpa.search.StaleSearchDeletingSvcImpl;
import ca.uhn.fhir.jpa.util.ResourceCountCache;
import ca.uhn.fhir.rest.api.IResourceSupportedSvc;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import jakarta.persistence.EntityManagerFactory;
import javax.sql.DataSource;
import org.hibernate.dialect.Dialect;
import org.springframework.beans.BeanUtils;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.boot.autoconfigure.orm.jpa.JpaProperties;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Primary;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;

/** Storage: what JpaR4Config asks of the application around it. */
@Configuration
@EnableConfigurationProperties(JpaProperties.class)
class JpaConfiguration {

    @Bean
    JpaStorageSettings storageSettings(HapiProperties properties) {
        JpaStorageSettings settings = new JpaStorageSettings();
        settings.setAllowExternalReferences(properties.allowExternalReferences());
        settings.setAllowMultipleDelete(properties.allowMultipleDelete());
        settings.setEnforceReferentialIntegrityOnWrite(properties.enforceReferentialIntegrityOnWrite());
        settings.setEnforceReferentialIntegrityOnDelete(properties.enforceReferentialIntegrityOnDelete());
        settings.setExpungeEnabled(properties.expungeEnabled());
        settings.setDeleteExpungeEnabled(properties.deleteExpungeEnabled());
        settings.setPreExpandValueSets(properties.preExpandValueSets());
        settings.setEnableTaskPreExpandValueSets(properties.enableTaskPreExpandValueSets());
        settings.setResourceClientIdStrategy(properties.clientIdStrategy());
        settings.setResourceServerIdStrategy(properties.serverIdStrategy());
        settings.setFetchSizeDefaultMaximum(properties.maxPageSize());
        long reuse = properties.reuseCachedSearchResultsMillis();
        settings.setReuseCachedSearchResultsForMillis(reuse > 0 ? reuse : null);
        return settings;
    }

    @Bean
    PartitionSettings partitionSettings() {
        return new PartitionSettings();
    }

    @Bean
    @Primary
    LocalContainerEntityManagerFactoryBean entityManagerFactory(
            DataSource dataSource,
            ConfigurableListableBeanFactory beans,
            FhirContext context,
            JpaStorageSettings settings,
            JpaProperties jpa) {
        LocalContainerEntityManagerFactoryBean factory =
                HapiEntityManagerFactoryUtil.newEntityManagerFactory(beans, context, settings);
        factory.setPersistenceUnitName("HAPI_PU");
        factory.setDataSource(dataSource);
        factory.setJpaPropertyMap(jpa.getProperties());
        return factory;
    }

    @Bean
    @Primary
    JpaTransactionManager transactionManager(EntityManagerFactory factory) {
        return new JpaTransactionManager(factory);
    }

    @Bean
    @Primary
    HibernatePropertiesProvider dialectProvider(
            @Value("${spring.jpa.properties.hibernate.dialect}") Class<? extends Dialect> type) {
        Dialect dialect = BeanUtils.instantiateClass(type);
        return new HibernatePropertiesProvider() {
            @Override
            public Dialect getDialect() {
                return dialect;
            }
        };
    }

    @Bean
    IBinaryStorageSvc binaryStorage() {
        return new DatabaseBinaryContentStorageSvcImpl();
    }

    @Bean
    IFulltextSearchSvc fullTextSearch() {
        return new FulltextSearchSvcImpl();
    }

    @Bean
    IHSearchSortHelper searchSortHelper(ISearchParamRegistry searchParameters) {
        return new HSearchSortHelperImpl(searchParameters);
    }

    @Bean
    IStaleSearchDeletingSvc staleSearchDeleting() {
        return new StaleSearchDeletingSvcImpl();
    }

    @Bean
    IResourceSupportedSvc resourceSupported(IDaoRegistry daos) {
        return new DaoRegistryResourceSupportedSvc(daos);
    }

    @Bean("myResourceCountsCache")
    ResourceCountCache resourceCounts(IFhirSystemDao<?, ?> dao) {
        return ResourceCountCacheUtil.newResourceCountCache(dao);
    }
}
