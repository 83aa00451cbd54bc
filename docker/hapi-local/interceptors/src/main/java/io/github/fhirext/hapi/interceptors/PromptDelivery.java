package io.github.fhirext.hapi.interceptors;

import ca.uhn.fhir.interceptor.api.Hook;
import ca.uhn.fhir.interceptor.api.Interceptor;
import ca.uhn.fhir.interceptor.api.Pointcut;
import ca.uhn.fhir.jpa.subscription.async.AsyncResourceModifiedSubmitterSvc;
import ca.uhn.fhir.rest.api.RequestTypeEnum;
import ca.uhn.fhir.rest.api.server.RequestDetails;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicBoolean;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.beans.factory.DisposableBean;
import org.springframework.stereotype.Component;

/**
 * Starts a delivery pass of subscriptions right after each write.
 *
 * <p>HAPI stores a row per changed resource and looks for such rows on a timer. This removes the wait
 * for the timer and nothing else: a pass that fails or is missed is made up for by the next poll.
 */
@Component
@Interceptor
public class PromptDelivery implements DisposableBean {

    private static final Logger log = LoggerFactory.getLogger(PromptDelivery.class);

    private final AsyncResourceModifiedSubmitterSvc submitter;
    private final AtomicBoolean waiting = new AtomicBoolean();
    private final ExecutorService passes =
            Executors.newSingleThreadExecutor(task -> {
                Thread thread = new Thread(task, "prompt-delivery");
                thread.setDaemon(true);
                return thread;
            });

    public PromptDelivery(AsyncResourceModifiedSubmitterSvc submitter) {
        this.submitter = submitter;
    }

    /** The answer is out and the transaction is committed, so a pass sees the rows of this request. */
    @Hook(Pointcut.SERVER_PROCESSING_COMPLETED_NORMALLY)
    public void afterRequest(RequestDetails request) {
        if (request.getRequestType() != RequestTypeEnum.GET && waiting.compareAndSet(false, true)) {
            passes.execute(this::pass);
        }
    }

    private void pass() {
        // Reset first: a write that commits during this pass needs another one.
        waiting.set(false);
        try {
            submitter.runDeliveryPass();
        } catch (RuntimeException e) {
            log.warn("Prompt delivery failed, the next poll delivers: {}", e.getClass().getName());
        }
    }

    @Override
    public void destroy() {
        passes.shutdownNow();
    }
}
