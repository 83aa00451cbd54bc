package io.github.fhirext.hapi.interceptors;

import ca.uhn.fhir.context.support.IValidationSupport;
import org.hl7.fhir.r4.model.CodeSystem;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.context.event.ContextRefreshedEvent;
import org.springframework.context.event.EventListener;
import org.springframework.stereotype.Component;

/**
 * Makes {@code $validate} know the security label AIAST.
 *
 * <p>The definitions that come with HAPI hold v3-ObservationValue as of 2018; AIAST is younger. Loading a
 * CodeSystem of that name does not help: HAPI's own comes first.
 */
@Component
public class RecentLabels {

    private static final String SYSTEM = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue";
    private static final String CODE = "AIAST";

    private final ObjectProvider<IValidationSupport> validation;

    public RecentLabels(ObjectProvider<IValidationSupport> validation) {
        this.validation = validation;
    }

    @EventListener(ContextRefreshedEvent.class)
    public void complete() {
        if (validation.getObject().fetchCodeSystem(SYSTEM) instanceof CodeSystem system
                && system.getConcept().stream().noneMatch(concept -> CODE.equals(concept.getCode()))) {
            system.addConcept().setCode(CODE).setDisplay("Artificial Intelligence asserted");
        }
    }
}
