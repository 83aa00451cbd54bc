package io.github.fhirext.hapi.interceptors;

import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.interceptor.api.Hook;
import ca.uhn.fhir.interceptor.api.Interceptor;
import ca.uhn.fhir.interceptor.api.Pointcut;
import ca.uhn.fhir.rest.api.server.RequestDetails;
import java.util.Set;
import org.hl7.fhir.instance.model.api.IBaseResource;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.stereotype.Component;

/**
 * Makes conformance resources count in {@code $validate} from the moment their write is answered.
 *
 * <p>HAPI remembers for ten minutes that a CodeSystem or ValueSet is unknown, and forgets it only when
 * a StructureDefinition changes.
 */
@Component
@Interceptor
public class FreshTerminology {

    private static final Set<String> CONFORMANCE = Set.of("CodeSystem", "ValueSet", "StructureDefinition");
    private static final String CHANGED = FreshTerminology.class.getName();

    private final ObjectProvider<IValidationSupport> validation;

    public FreshTerminology(ObjectProvider<IValidationSupport> validation) {
        this.validation = validation;
    }

    @Hook(Pointcut.STORAGE_PRECOMMIT_RESOURCE_CREATED)
    public void created(IBaseResource resource, RequestDetails request) {
        note(resource, request);
    }

    @Hook(Pointcut.STORAGE_PRECOMMIT_RESOURCE_UPDATED)
    public void updated(IBaseResource before, IBaseResource after, RequestDetails request) {
        note(after, request);
    }

    @Hook(Pointcut.STORAGE_PRECOMMIT_RESOURCE_DELETED)
    public void deleted(IBaseResource resource, RequestDetails request) {
        note(resource, request);
    }

    private static void note(IBaseResource resource, RequestDetails request) {
        if (request != null && CONFORMANCE.contains(resource.fhirType())) {
            request.getUserData().put(CHANGED, true);
        }
    }

    /** Committed, not yet answered: whoever has the answer finds the new definitions. */
    @Hook(Pointcut.SERVER_OUTGOING_RESPONSE)
    public void beforeAnswer(RequestDetails request) {
        if (request.getUserData().containsKey(CHANGED)) {
            validation.getObject().invalidateCaches();
        }
    }
}
