package io.github.fhirext.hapi.server;

import ca.uhn.fhir.jpa.model.config.SubscriptionSettings;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import ca.uhn.fhir.jpa.subscription.match.config.SubscriptionProcessorConfig;
import ca.uhn.fhir.jpa.subscription.match.deliver.email.IEmailSender;
import ca.uhn.fhir.jpa.subscription.submit.config.SubscriptionSubmitterConfig;
import ca.uhn.fhir.jpa.topic.SubscriptionTopicConfig;
import org.hl7.fhir.dstu2.model.Subscription.SubscriptionChannelType;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;

/** Subscriptions: rest-hook by criteria, and R4 Backport topics. */
@Configuration
@Import({
    SubscriptionChannelConfig.class,
    SubscriptionProcessorConfig.class,
    SubscriptionSubmitterConfig.class,
    SubscriptionTopicConfig.class
})
class SubscriptionConfiguration {

    @Bean
    SubscriptionSettings subscriptionSettings(HapiProperties properties) {
        SubscriptionSettings settings = new SubscriptionSettings();
        if (properties.subscription().resthookEnabled()) {
            settings.addSupportedSubscriptionType(SubscriptionChannelType.RESTHOOK);
        }
        settings.setSubscriptionIntervalInMs(properties.subscription().pollingIntervalMs());
        return settings;
    }

    /** Asked for by the delivery code; no mail is ever sent, as the channel type is not supported. */
    @Bean
    IEmailSender emailSender() {
        return details -> {
            throw new UnsupportedOperationException("the email channel is off");
        };
    }
}
